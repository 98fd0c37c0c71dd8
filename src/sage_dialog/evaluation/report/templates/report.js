
"use strict";
// Browsers of the dialogues and searches in the page. Their texts are data and are inserted as text only.
(() => {
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);

  function make(tag, looks, ...inside) {
    const element = document.createElement(tag);
    if (looks) element.className = looks;
    element.append(...inside.filter((part) => part !== null && part !== undefined));  // strings become text
    return element;
  }

  function intent(name, block) {
    if (!block) return null;
    const [motivation, emotion, topics] = block;
    const words = [motivation || "no motivation", emotion || "no emotion"];
    if (topics.length) words.push(topics.join(", "));
    return make("span", "intent " + name, make("b", "", name), " " + words.join(" · "));
  }

  function intents(message) {
    return message.state || message.action
      ? make("div", "intents", intent("state", message.state), intent("action", message.action)) : null;
  }

  function turn(message, below) {
    const agent = message.role === "assistant";
    return make("div", "turn " + (agent ? "assistant" : "user"), make("div", "who", agent ? "agent" : "simulated user"),
      intents(message), make("div", "message", message.text), below);
  }

  function table(heads, rows) {
    return make("div", "scroll", make("table", "",
      make("thead", "", make("tr", "", ...heads.map((head) => make("th", "", head)))),
      make("tbody", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell)))))));
  }

  function outcome(vote) {
    const [ab, ba] = vote.answers;
    if (vote.outcome !== "tie") return vote.outcome + " wins";
    if (ab === "unreadable" || ba === "unreadable") return "tie: unreadable";
    return ab === ba || vote.answers.includes("no answer") ? "tie" : "tie: the order changes the answer";
  }

  function votesOf(votes) {
    if (!votes.length) return make("p", "soft", "No judge compared these policies here.");
    const rows = votes.map((vote) => [vote.judge, vote.a + " – " + vote.b, ...vote.answers,
      make("span", "outcome", outcome(vote))]);
    const wrote = make("ul", "");
    for (const vote of votes) {
      vote.wrote.forEach((reply, place) => {
        if (!reply) return;
        const first = place === 0 ? vote.a : vote.b;
        wrote.append(make("li", "", make("b", "", vote.judge), ", " + vote.a + " – " + vote.b + ", " + first
          + " read first: " + reply));
      });
    }
    const heads = ["judge", "a – b", "a read first, it names", "b read first, it names", "together"];
    const folded = wrote.childElementCount ? make("details", "", make("summary", "", "What they wrote"), wrote) : null;
    return make("div", "", table(heads, rows), folded);
  }

  function candidate(row) {
    const item = make("li", row.chosen ? "chosen" : "", make("span", "number", String(row.number)));
    if (row.why !== undefined) {
      item.append(make("span", "why", "not valid (" + row.why + "): "), make("code", "", row.text));
      return item;
    }
    if (row.chosen) item.append(make("span", "badge", "chosen "));
    item.append(row.text);
    const blocks = intents(row);
    if (blocks) item.append(blocks);
    return item;
  }

  function search(tree) {
    let first = true;
    const turns = tree.turns.map((message) => {
      if (!message.candidates.length) return turn(message);
      const broken = message.candidates.filter((row) => row.why !== undefined).length;
      const picked = message.candidates.find((row) => row.chosen);
      const folded = make("details", "candidates", make("summary", "", message.candidates.length + " candidates"
        + (picked ? ", number " + picked.number + " chosen" : "") + (broken ? ", " + broken + " not valid" : "")), make("ul", "tree", ...message.candidates.map(candidate)));
      folded.open = first;
      first = false;
      return turn(message, folded);
    });
    return make("div", "", ...turns, make("p", "soft", "Ended by “" + tree.outcome + "”."));
  }

  // A select over rows with two buttons; `show` is called with the chosen row.
  function chooser(name, rows, show) {
    const select = find(name + "-select"), back = find(name + "-back"), on = find(name + "-on");
    rows.forEach((row, place) => {
      const opening = row.turns || Object.values(row.dialogues)[0].turns;
      const option = make("option", "", row.emotion + ": " + [...opening[0].text].slice(0, 70).join("") + " (" + row.id + ")");
      option.value = String(place);
      select.append(option);
    });
    const refresh = () => {
      back.disabled = select.selectedIndex === 0;
      on.disabled = select.selectedIndex === rows.length - 1;
      show(rows[select.selectedIndex]);
    };
    const step = (by) => { select.selectedIndex += by; refresh(); };
    back.addEventListener("click", () => step(-1));
    on.addEventListener("click", () => step(1));
    select.addEventListener("change", refresh);
    find(name + "-controls").hidden = false;
    find(name + "-view").hidden = false;
    find(name + "-static").hidden = true;
    refresh();
    return refresh;
  }

  function browseDialogues() {
    const { rows, policies, ticked } = read("dialogues-data");
    const chosen = new Set(ticked);
    const refresh = chooser("dialogues", rows, (row) => {
      const chosenPolicies = policies.filter((policy) => chosen.has(policy) && row.dialogues[policy]);
      const columns = chosenPolicies.map((policy) => make("div", "", make("h4", "", policy),
        ...row.dialogues[policy].turns.map((message) => turn(message)),
        make("p", "soft", "Ended by “" + row.dialogues[policy].outcome + "”.")));
      const votes = row.votes.filter((vote) => chosenPolicies.includes(vote.a) && chosenPolicies.includes(vote.b));
      find("dialogues-view").replaceChildren(make("p", "soft", "Situation ", make("code", "", row.id), ", labelled "
        + row.emotion + "."), make("div", "side", ...columns), votesOf(votes));
    });
    for (const policy of policies) {
      const box = make("input", "");
      box.type = "checkbox";
      box.value = policy;
      box.checked = chosen.has(policy);
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(policy); else chosen.delete(policy);
        refresh();
      });
      find("dialogues-policies").append(make("label", "", box, " " + policy));
    }
  }

  function browseSearches() {
    const { rows } = read("searches-data");
    const view = find("searches-view"), all = find("searches-all");
    chooser("searches", rows, (row) => {
      view.replaceChildren(make("p", "soft", "Situation ", make("code", "", row.id), ", labelled " + row.emotion + "."),
        search(row));
    });
    all.addEventListener("click", () => {
      const folded = [...view.querySelectorAll("details")], open = folded.some((part) => !part.open);
      folded.forEach((part) => { part.open = open; });
    });
  }

  if (find("dialogues-data")) browseDialogues();
  if (find("searches-data")) browseSearches();

  // Unfold everything for print.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    unfolded.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => { unfolded.forEach((part) => { part.open = false; }); unfolded = []; });
})();
