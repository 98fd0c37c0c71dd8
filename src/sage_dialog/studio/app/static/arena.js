// The arena's tab. Texts of models and people are only ever set as text content.
"use strict";

const PAUSE = 400; // ms during which a new pair accepts no vote, so that a double click does not vote on the next one
const KEYS = { a: "first", arrowleft: "first", b: "second", arrowright: "second", t: "tie" }; // not the down arrow, which scrolls
const NAMES = { user: "User", assistant: "Assistant" };
const WORDS = { first: "A is better", second: "B is better", tie: "Tie" };

const element = (id) => document.getElementById(id);
const votes = [...document.querySelectorAll("[data-vote]")];
let ballot = null;
let canUndo = false;

function messageItem({ role, text }) {
  const item = document.createElement("li");
  item.className = "turn " + role;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = NAMES[role];
  const message = document.createElement("div");
  message.className = "message";
  message.dir = "auto";
  message.textContent = text;
  item.append(who, message);
  return item;
}

function setBusy(busy) {
  for (const button of votes) button.disabled = busy;
  element("undo").disabled = busy || !canUndo;
}

function showError(text) {
  element("error").textContent = text;
}

function show(state, focused) {
  ballot = state.ballot;
  canUndo = state.can_undo;
  element("count").textContent = `${state.done} of ${state.total}`;
  element("progress").max = Math.max(1, state.total);
  element("progress").value = state.done;
  for (const part of document.querySelectorAll("[data-voting]")) part.hidden = !ballot;
  element("finished").hidden = Boolean(ballot);
  element("comment").value = state.comment ?? "";
  if (ballot) {
    const opening = ballot.opening === null ? [] : [messageItem({ role: "user", text: ballot.opening })];
    element("opening").replaceChildren(...opening);
    element("opening").parentElement.hidden = !opening.length;
    element("first").replaceChildren(...ballot.dialogues[0].map(messageItem));
    element("second").replaceChildren(...ballot.dialogues[1].map(messageItem));
  }
  if (focused) {
    window.scrollTo(0, 0);
    element(ballot ? "question" : "thanks").focus({ preventScroll: true });
  }
  setBusy(true);
  setTimeout(() => setBusy(false), PAUSE);
}

async function request(path, body) {
  setBusy(true);
  let response;
  try {
    response = await fetch("/arena/" + path, body === undefined ? {} : {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    showError("The studio does not respond. All previous votes are saved: start it again in its terminal, and open the address that it shows.");
    setBusy(false);
    return null;
  }
  if (!response.ok) {
    const error = await response.text();
    const current = response.status === 409 ? await request("state") : null; // another window was quicker: show its state
    if (current) show(current, true);
    else setBusy(false);
    showError(error);
    return null;
  }
  showError("");
  return response.json();
}

async function vote(choice) {
  const comment = element("comment").value;
  const state = await request("vote", { ballot: ballot.id, vote: choice, comment: comment.toWellFormed?.() ?? comment });
  if (!state) return;
  show(state, true);
  element("status").textContent = `${WORDS[choice]}, saved. ${state.done} of ${state.total}.`;
}

async function undo() {
  const state = await request("undo", {});
  if (!state) return;
  show(state, true);
  element("status").textContent = `The last vote is undone. ${state.done} of ${state.total}.`;
}

for (const button of votes) button.addEventListener("click", () => vote(button.dataset.vote));
element("undo").addEventListener("click", undo);
element("voting").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const key = event.key.toLowerCase();
  if (event.target === element("comment")) {
    if (key === "escape") element("comment").blur();
    return;
  }
  if (event.repeat) return;
  const choice = KEYS[key];
  if (ballot && choice && !votes[0].disabled) vote(choice);
  else if (key === "u" && !element("undo").disabled) undo();
  else if (ballot && key === "c") element("comment").focus();
  else if (!choice) return;
  event.preventDefault();
});

request("state").then((state) => state && show(state, false));
