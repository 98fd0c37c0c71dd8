// The arena's page. What models and people wrote is only ever set as text.
"use strict";

const PAUSE = 400; // ms in which a pair that has just come takes no vote: a double click is not a vote on the next one
const KEYS = { a: "first", arrowleft: "first", b: "second", arrowright: "second", t: "tie" }; // not the down arrow, with which people read on
const NAMES = { user: "User", assistant: "Assistant" };
const WORDS = { first: "A is better", second: "B is better", tie: "Tie" };

const element = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=arena-token]").content;
const votes = [...document.querySelectorAll("[data-vote]")];
let ballot = null;
let canUndo = false;

function message({ role, text }) {
  const item = document.createElement("li");
  item.className = role;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = NAMES[role];
  const said = document.createElement("p");
  said.textContent = text;
  item.append(who, said);
  return item;
}

function busy(yes) {
  for (const button of votes) button.disabled = yes;
  element("undo").disabled = yes || !canUndo;
}

function trouble(text) {
  element("trouble").hidden = !text;
  element("trouble").textContent = text;
}

function show(state, focused) {
  ballot = state.ballot;
  canUndo = state.can_undo;
  element("count").textContent = `${state.done} of ${state.total}`;
  element("progress").max = Math.max(1, state.total);
  element("progress").value = state.done;
  for (const part of document.querySelectorAll("[data-asking]")) part.hidden = !ballot;
  element("finished").hidden = Boolean(ballot);
  element("comment").value = state.comment ?? "";
  if (ballot) {
    const opening = ballot.opening === null ? [] : [message({ role: "user", text: ballot.opening })];
    element("opening").replaceChildren(...opening);
    element("opening").parentElement.hidden = !opening.length;
    element("first").replaceChildren(...ballot.dialogues[0].map(message));
    element("second").replaceChildren(...ballot.dialogues[1].map(message));
  }
  if (focused) {
    window.scrollTo(0, 0);
    element(ballot ? "question" : "thanks").focus({ preventScroll: true });
  }
  busy(true);
  setTimeout(() => busy(false), PAUSE);
}

async function ask(path, given) {
  busy(true);
  let answer;
  try {
    answer = await fetch(path, given === undefined ? {} : {
      method: "POST",
      headers: { "content-type": "application/json", "x-arena-token": token },
      body: JSON.stringify(given),
    });
  } catch {
    trouble("The arena does not answer. Every vote before this one is saved: start it again in its terminal, then reload this page.");
    busy(false);
    return null;
  }
  if (!answer.ok) {
    const told = await answer.text();
    const now = answer.status === 409 ? await ask("state") : null; // another window was quicker: go on where it is
    if (now) show(now, true);
    else busy(false);
    trouble(told);
    return null;
  }
  trouble("");
  return answer.json();
}

async function vote(choice) {
  const comment = element("comment").value;
  const state = await ask("vote", { ballot: ballot.id, vote: choice, comment: comment.toWellFormed?.() ?? comment });
  if (!state) return;
  show(state, true);
  element("said").textContent = `${WORDS[choice]}, saved. ${state.done} of ${state.total}.`;
}

async function undo() {
  const state = await ask("undo", {});
  if (!state) return;
  show(state, true);
  element("said").textContent = `The last vote is taken back. ${state.done} of ${state.total}.`;
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

ask("state").then((state) => state && show(state, false));
