// The chat: replies as they are drawn, and keys. Texts of models and people are only ever set as text content.

const element = (id) => document.getElementById(id);
const announce = (text) => { element("status").textContent = text; };
const streams = new Map();  // by element

function reportLoss() {
  element("error").textContent = "The studio does not respond. Conversations are saved: start it again in its terminal, and open the address that it shows.";
}

// A reply in the page. A lost connection is opened again by the browser, and then brings the reply from its beginning.
function follow(reply) {
  const source = new EventSource(reply.dataset.stream);
  streams.set(reply, source);
  const words = reply.querySelector("[data-words]");
  let text = "";
  source.addEventListener("reply", (event) => {
    const change = JSON.parse(event.data);
    const below = atEnd();
    reply.querySelector("[data-waiting]")?.replaceChildren();
    for (const field of reply.querySelectorAll("[data-field]")) field.textContent = change.fields[field.dataset.field] ?? "";
    text = text.slice(0, change.at) + change.text;
    if (words) words.textContent = text;
    if (below) scrollTo(0, document.body.scrollHeight);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) reportLoss();  // refused, such as by another start
  });
  source.addEventListener("done", async () => {
    source.close();
    streams.delete(reply);
    const below = atEnd();
    await window.htmx.ajax("GET", location.pathname + "/view", { target: "#talk", swap: "outerHTML" });
    if (below) scrollTo(0, document.body.scrollHeight);
    if (!document.querySelector("[data-stream]")) {
      const candidates = document.querySelector("#talk .candidates h2");
      if (candidates) candidates.focus();
      announce(candidates ? candidates.textContent : replies());
    }
  });
}

// The last reply of each policy that has replied; a failure is announced by its own role.
function replies() {
  const sides = [...document.querySelectorAll("#talk .side")].filter((side) => !side.querySelector(".failed"));
  const words = (side) => [...side.querySelectorAll(".turn.assistant .message")].at(-1)?.textContent ?? "";
  return sides.map((side) => (sides.length > 1 ? side.getAttribute("aria-label") : "Reply") + ": " + words(side)).join(". ");
}

function atEnd() {
  return innerHeight + scrollY > document.body.scrollHeight - 80;
}

// The focus by keyboard returns to a control of the same place in the conversation, or else to the next message.
let focused = "";
function noteFocus() {
  const control = document.activeElement;
  if (control.closest("#talk") && control.matches(":focus-visible")) focused = control.id || "text";
}
function restoreFocus() {
  if (!focused || document.activeElement !== document.body) return;
  const control = element(focused) ?? (document.querySelector("[data-stream]") ? null : element("text"));
  if (control && !control.disabled) control.focus({ preventScroll: true });
}

function refresh() {
  restoreFocus();
  for (const [reply, source] of streams) {
    if (!reply.isConnected) {
      source.close();
      streams.delete(reply);
    }
  }
  for (const reply of document.querySelectorAll("[data-stream]")) if (!streams.has(reply)) follow(reply);
}

function show(output) {
  const weight = Number(output.previousElementSibling.value);
  output.textContent = (output.closest(".boost") && weight > 0 ? "+" : "") + weight;
}

document.addEventListener("htmx:beforeRequest", () => element("error").replaceChildren());
document.addEventListener("focusin", () => { focused = ""; });
document.addEventListener("htmx:beforeSwap", noteFocus);
document.addEventListener("htmx:afterSettle", refresh);
document.addEventListener("htmx:sendError", reportLoss);
document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.detail.elt;
  if (form.matches("[data-compose]") && event.detail.successful) {
    form.reset();
    scrollTo(0, document.body.scrollHeight);
  }
});
document.addEventListener("input", (event) => {
  const output = event.target.nextElementSibling;
  if (output?.matches("output")) show(output);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-remove]");
  if (!button) return;
  const form = button.form, row = button.parentElement;
  (row.previousElementSibling?.querySelector("[data-remove]") ?? row.parentElement.nextElementSibling).focus();
  row.remove();
  form.dispatchEvent(new Event("change", { bubbles: true }));
});
document.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (!example) return;
  const message = example.form.elements.text;
  message.value = example.dataset.example;
  message.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter" && !event.shiftKey && event.target.matches("[data-compose] textarea")) {
    event.preventDefault();
    event.target.form.requestSubmit();
  } else if (event.key === "Escape") {
    document.querySelector(".stop")?.click();
  }
});

if (matchMedia("(max-width: 60rem)").matches) {
  for (const part of document.querySelectorAll("[data-narrow-closed]")) part.open = false;
}
refresh();
