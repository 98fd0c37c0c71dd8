
"use strict";
// Browsers of the dialogues and searches in the page. Their texts are data and are inserted as text only.
// The address keeps what is shown, such as #dialogues?judge=…&outcome=tie&at=3.
(() => {
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);

  const spaced = (name) => name.replaceAll("_", " ");

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  // A function from the place of a situation to its dialogues; each part is unpacked once.
  function reader(parts) {
    const unpacked = new Map();
    return async ([part, place]) => {
      if (!unpacked.has(part)) unpacked.set(part, unpack(parts[part]));
      return (await unpacked.get(part))[place];
    };
  }

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
    const failures = message.failures ? make("div", "fails", "rule: " + message.failures.map(spaced).join(", ")) : null;
    return make("div", "turn " + (agent ? "assistant" : "user"), make("div", "who", agent ? "agent" : "simulated user"),
      intents(message), make("div", "message", message.text), failures, below);
  }

  function table(caption, heads, rows) {
    const scrolled = make("div", "scroll", make("table", "", make("caption", "", caption),
      make("thead", "", make("tr", "", ...heads.map((head) => { const cell = make("th", "", head); cell.scope = "col"; return cell; }))),
      make("tbody", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell)))))));
    scrolled.tabIndex = 0;
    scrolled.setAttribute("role", "region");
    scrolled.setAttribute("aria-label", caption);
    return scrolled;
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
    return make("div", "", table("Votes on these dialogues", heads, rows), folded);
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

  const WINDOW = 200;  // options in a select

  // A select over items with two buttons; `show` is called with the chosen item.
  function chooser(name, describe, show) {
    const select = find(name + "-select"), back = find(name + "-back"), on = find(name + "-on");
    let items = [], at = 0;
    const refresh = (moved) => {
      const start = Math.floor(at / WINDOW) * WINDOW;
      select.replaceChildren(...items.slice(start, start + WINDOW).map((item, place) => {
        const option = make("option", "", (start + place + 1) + " of " + items.length + ". " + describe(item));
        option.value = String(start + place);
        return option;
      }));
      select.value = String(at);
      select.disabled = !items.length;
      back.disabled = at <= 0;
      on.disabled = at >= items.length - 1;
      return show(items[at], at, moved);
    };
    const go = (place) => { at = Math.max(0, Math.min(items.length - 1, place)); return refresh(true); };
    back.addEventListener("click", () => go(at - 1));
    on.addEventListener("click", () => go(at + 1));
    select.addEventListener("change", () => go(Number(select.value)));
    for (const part of ["controls", "view", "found"]) find(name + "-" + part).hidden = false;
    find(name + "-static").hidden = true;
    return { fill(found, place) { items = found; at = Math.max(0, Math.min(items.length - 1, place)); return refresh(false); } };
  }

  const ANSWERS = {
    first: (vote, order) => vote === order[0], second: (vote, order) => vote === order[1],
    named: (vote) => vote === "a" || vote === "b", tie: (vote) => vote === "tie",
    unreadable: (vote) => vote === "unreadable", readable: (vote) => vote !== "unreadable", any: () => true,
  };
  const OUTCOMES = { a: "a wins", b: "b wins", decided: "one wins", tie: "a tie" };
  const VOTES = { win: "both name one policy", tie: "both say tie", inconsistent: "the order changes it",
    unreadable: "one cannot be read", readable: "both can be read" };
  const ORDER = { first: "names the first read", second: "names the second read", named: "names one", tie: "a tie",
    unreadable: "unreadable", readable: "readable", any: "each answer" };
  const TOGETHER = { same: "same outcome", different: "other outcome", decided: "both name a winner",
    agree: "same winner", contradict: "other winner" };
  const LENGTH = { one: "clear win, one is longer", longer: "the longer one wins", shorter: "the shorter one wins" };
  const FILTERS = {  // by name in the address: label
    judge: "judge", pair: "pair", outcome: "outcome", votes: "answers in both orders", answer: "single answers",
    against: "against judge or truth", together: "the two judges", longer: "length", policy: "policy",
    failure: "failure", label: "emotion of the situation", read: "emotion read", named: "emotion, word for word",
    exchange: "exchange", blocks: "blocks", situation: "situation",
  };

  // The index of `dialogues.py`: which comparisons, replies or situations the filters find.
  function finder({ situations, votes, replies }) {
    const cell = (judge, pair, situation) => judge + " " + pair + " " + situation;
    const byCell = new Map(votes.situation.map((situation, row) => [cell(votes.judge[row], votes.pair[row], situation), row]));
    const keyOf = (situation, policy) => situation + " " + policy;
    const byDialogue = new Map();
    replies.situation.forEach((situation, row) => {
      const key = keyOf(situation, replies.policy[row]);
      if (!byDialogue.has(key)) byDialogue.set(key, []);
      byDialogue.get(key).push(row);
    });
    const ofReply = ["failure", "read", "named", "exchange", "blocks"];

    const replyFits = (row, wanted) =>
      (!wanted.failure || replies.failures[row].includes(wanted.failure))
      && (!wanted.read || replies.read[row] === wanted.read)
      && (!wanted.named || (replies.named[row] === wanted.named))
      && (!wanted.exchange || String(replies.exchange[row]) === wanted.exchange)
      && (!wanted.blocks || (replies.read[row] !== null) === (wanted.blocks === "yes"));
    const situationFits = (place, wanted) =>
      (!wanted.label || situations.label[place] === wanted.label) && (!wanted.situation || situations.id[place] === wanted.situation);

    function together(row, wanted) {
      if (!wanted.against) return true;
      const other = byCell.get(cell(votes.judges.indexOf(wanted.against), votes.pair[row], votes.situation[row]));
      if (other === undefined) return false;
      const one = votes.outcome[row], two = votes.outcome[other], decided = one !== "tie" && two !== "tie";
      return { undefined: true, same: one === two, different: one !== two, decided,
        agree: decided && one === two, contradict: decided && one !== two }[wanted.together];
    }

    function lengthFits(row, wanted) {
      if (!wanted.longer) return true;
      if (votes.kind[row] !== "win" || !votes.longer[row]) return false;
      const longerWins = votes.ab[row] === votes.longer[row] || (votes.ab[row] === null && votes.ba[row] === votes.longer[row]);
      return wanted.longer === "one" || longerWins === (wanted.longer === "longer");
    }

    function comparisons(wanted) {
      const judge = votes.judges.indexOf(wanted.judge), found = [];
      votes.situation.forEach((situation, row) => {
        const [a, b] = votes.pairs[votes.pair[row]], outcome = votes.outcome[row], kind = votes.kind[row];
        if (votes.judge[row] !== judge || (wanted.a && a !== wanted.a) || (wanted.b && b !== wanted.b)) return;
        if (wanted.policy && a !== wanted.policy && b !== wanted.policy) return;
        if (wanted.outcome && outcome !== wanted.outcome && !(wanted.outcome === "decided" && outcome !== "tie")) return;
        if (wanted.votes === "readable" ? kind === "unreadable" || votes.ab[row] === null || votes.ba[row] === null
          : wanted.votes && kind !== wanted.votes) return;
        if (!situationFits(situation, wanted) || !together(row, wanted) || !lengthFits(row, wanted)) return;
        if (ofReply.some((name) => wanted[name])) {
          const either = (wanted.policy ? [wanted.policy] : [a, b]).map((policy) => replies.policies.indexOf(policy));
          if (!either.some((policy) => (byDialogue.get(keyOf(situation, policy)) || []).some((reply) => replyFits(reply, wanted)))) return;
        }
        if (!wanted.answer) found.push({ situation, policies: [a, b] });
        else for (const order of ["ab", "ba"]) {
          const vote = votes[order][row];
          if (vote !== null && ANSWERS[wanted.answer](vote, order)) found.push({ situation, policies: [a, b], order });
        }
      });
      return found;
    }

    return (wanted) => {
      if (wanted.judge) return comparisons(wanted);
      const places = situations.id.map((_, place) => place).filter((place) => situationFits(place, wanted));
      if (!wanted.policy && !ofReply.some((name) => wanted[name])) return places.map((situation) => ({ situation }));
      const allowed = new Set(places), policies = replies.policies, found = [];
      if (!ofReply.some((name) => wanted[name])) {
        const policy = policies.indexOf(wanted.policy);
        for (const situation of places) if (byDialogue.has(keyOf(situation, policy))) found.push({ situation, policies: [wanted.policy] });
        return found;
      }
      replies.situation.forEach((situation, row) => {
        const policy = policies[replies.policy[row]];
        if (!allowed.has(situation) || (wanted.policy && policy !== wanted.policy) || !replyFits(row, wanted)) return;
        found.push({ situation, policies: [policy], exchange: replies.exchange[row] });
      });
      return found;
    };
  }

  const unique = (values) => [...new Set(values)].filter((value) => value !== null && value !== "");

  async function browseDialogues() {
    const { index, parts, policies, ticked, failures } = read("dialogues-data");
    const indexed = await unpack(index), dialogueAt = reader(parts), findItems = finder(indexed);
    const { situations, votes, replies } = indexed;
    let wanted = {}, chosen = null;  // the filters; the policies side by side, where they were chosen
    let drawn = 0;

    const pairs = votes.pairs.map(([a, b]) => [JSON.stringify([a, b]), a + " – " + b]);
    const same = (values) => values.map((value) => [value, value]);
    const options = {
      judge: same(votes.judges), pair: pairs, outcome: Object.entries(OUTCOMES), votes: Object.entries(VOTES),
      answer: Object.entries(ORDER), against: same(votes.judges), together: Object.entries(TOGETHER),
      longer: Object.entries(LENGTH), policy: same(policies), failure: failures.map((name) => [name, spaced(name)]),
      label: same(unique(situations.label).sort()), read: same(unique(replies.read).sort()), named: same(unique(replies.named).sort()),
      exchange: same(unique(replies.exchange).sort((one, two) => one - two).map(String)), blocks: [["yes", "yes"], ["no", "no"]],
      situation: same(situations.id),
    };
    const selects = {};
    for (const [name, label] of Object.entries(FILTERS)) {
      const select = make("select", "", make("option", "", "any"));
      select.options[0].value = "";
      for (const [value, text] of options[name]) {
        const option = make("option", "", text);
        option.value = value;
        select.append(option);
      }
      select.dataset.filter = name;
      select.addEventListener("change", () => { readSelects(); fill(0); keep(0); });
      selects[name] = select;
      find("dialogues-filters").append(make("label", "", label + " ", select));
    }
    const clear = make("button", "", "clear");
    clear.type = "button";
    clear.id = "dialogues-clear";
    clear.addEventListener("click", () => { wanted = {}; chosen = null; writeSelects(); fill(0); keep(0); });
    find("dialogues-filters").append(clear);

    function readSelects() {
      wanted = {};
      for (const [name, select] of Object.entries(selects)) if (select.value) wanted[name] = select.value;
      if (wanted.pair) [wanted.a, wanted.b] = JSON.parse(wanted.pair);
      complete();
      writeSelects();
    }

    function complete() {
      delete wanted.pair;
      const comparing = ["a", "outcome", "votes", "answer", "against", "longer"].some((name) => wanted[name]);
      if (comparing && !wanted.judge && votes.judges.length) wanted.judge = votes.judges[0];  // these are of a judge
      if (!wanted.against) delete wanted.together;
    }

    function writeSelects() {
      for (const [name, select] of Object.entries(selects)) select.value = wanted[name] || "";
      selects.pair.value = wanted.a && wanted.b ? JSON.stringify([wanted.a, wanted.b]) : "";
    }

    function keep(at) {
      const query = new URLSearchParams(wanted);
      for (const policy of chosen || []) query.append("show", policy);
      if (at) query.set("at", String(at + 1));
      history.replaceState(null, "", "#dialogues?" + query);
    }

    const boxes = policies.map((policy) => {
      const box = make("input", "");
      box.type = "checkbox";
      box.value = policy;
      box.addEventListener("change", () => {
        chosen = boxes.filter((each) => each.checked).map((each) => each.value);
        fill(place);
        keep(place);
      });
      find("dialogues-policies").append(make("label", "", box, " " + policy));
      return box;
    });

    let place = 0;
    const describe = (item) => situations.label[item.situation] + ": " + situations.opening[item.situation]
      + " (" + [situations.id[item.situation], ...(item.policies || [])].join(", ") + (item.exchange ? ", exchange " + item.exchange : "") + ")";
    const list = chooser("dialogues", describe, async (item, at, moved) => {
      place = Math.max(0, at);
      if (moved) keep(place);
      const turnNumber = ++drawn, view = find("dialogues-view");
      if (!item) { view.replaceChildren(make("p", "soft", "No dialogue is like this.")); return; }
      const row = await dialogueAt(situations.part[item.situation]);
      if (turnNumber !== drawn) return;  // another one was chosen meanwhile
      const visible = chosen || item.policies || ticked;
      boxes.forEach((box) => { box.checked = visible.includes(box.value); });
      const shown = policies.filter((policy) => visible.includes(policy) && row.dialogues[policy]);
      const columns = shown.map((policy) => {
        let exchange = 0;
        const turns = row.dialogues[policy].turns.map((message) => {
          const element = turn(message);
          if (message.role === "assistant") exchange += 1;
          if (message.role === "assistant" && item.exchange === exchange && item.policies.includes(policy)) element.classList.add("marked");
          return element;
        });
        return make("div", "", make("h4", "", policy), ...turns,
          make("p", "soft", "Ended by “" + row.dialogues[policy].outcome + "”."));
      });
      const between = row.votes.filter((vote) => shown.includes(vote.a) && shown.includes(vote.b));
      view.replaceChildren(make("p", "soft", "Situation ", make("code", "", row.id), ", labelled " + row.label + ", in the studio ",
          make("code", "", "/explorer/rollouts/" + encodeURIComponent(row.id)), "."),
        make("div", "side", ...columns), votesOf(between));
    });

    function fill(at) {
      const items = findItems(wanted);
      const unit = wanted.answer && wanted.judge ? "answer" : wanted.judge ? "pair of dialogues"
        : items.length && items[0].exchange ? "reply" : wanted.policy ? "dialogue" : "situation";
      const units = { answer: "answers", "pair of dialogues": "pairs of dialogues", reply: "replies", dialogue: "dialogues", situation: "situations" };
      find("dialogues-found").textContent = items.length.toLocaleString("en") + " " + (items.length === 1 ? unit : units[unit]);
      find("dialogues-found").dataset.count = String(items.length);
      return list.fill(items, at);
    }

    async function follow(scroll) {
      const [anchor, query] = location.hash.slice(1).split(/\?(.*)/s);
      if (anchor !== "dialogues" || (query === undefined && scroll)) return;
      const address = new URLSearchParams(query || "");
      wanted = {};
      for (const name of [...Object.keys(FILTERS), "a", "b"]) if (address.get(name)) wanted[name] = address.get(name);
      complete();
      chosen = address.getAll("show").length ? address.getAll("show") : null;
      writeSelects();
      const filled = fill(Number(address.get("at") || 1) - 1);
      if (scroll) find("dialogues").scrollIntoView();
      await filled;
    }

    addEventListener("hashchange", () => follow(true));
    if (location.hash.startsWith("#dialogues?")) await follow(true);
    else await fill(0);
    find("dialogues").dataset.ready = "yes";
  }

  async function browseSearches() {
    const { index, parts } = read("searches-data");
    const { id, label, opening, part } = await unpack(index), searchAt = reader(parts);
    const view = find("searches-view"), all = find("searches-all");
    let drawn = 0;
    const list = chooser("searches", (place) => label[place] + ": " + opening[place] + " (" + id[place] + ")", async (place) => {
      const number = ++drawn, row = await searchAt(part[place]);
      if (number !== drawn) return;
      view.replaceChildren(make("p", "soft", "Situation ", make("code", "", row.id), ", labelled " + row.label + "."),
        search(row));
    });
    all.addEventListener("click", () => {
      const folded = [...view.querySelectorAll("details")], open = folded.some((part) => !part.open);
      folded.forEach((part) => { part.open = open; });
    });
    find("searches-found").textContent = id.length.toLocaleString("en") + " searched situations";
    await list.fill(id.map((_, place) => place), 0);
    find("searches").dataset.ready = "yes";
  }

  for (const [name, browse] of [["dialogues", browseDialogues], ["searches", browseSearches]]) {
    if (find(name + "-data")) browse().catch((error) => {
      find(name + "-found").hidden = false;
      find(name + "-found").textContent = "This browser cannot unpack the dialogues: " + error.message;
    });
  }

  // Unfold everything for print.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    unfolded.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => { unfolded.forEach((part) => { part.open = false; }); unfolded = []; });
})();
