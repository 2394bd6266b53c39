"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const place = "genbench-birthday-" + data.page;
  const words = { y: "same", n: "different", "?": "cannot tell" };

  // Every answer in the order in which it was given, as [hash, answer]; the last one of a pair counts. So undo takes one
  // away, and an answer that was changed comes back.
  let session = newSession();
  let log = [];
  let at = 0;
  let isKept = true;
  let isSaved = true;

  function newSession() {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function answers() {
    return Object.fromEntries(log);
  }

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify({ session, log }));
      isKept = true;
    } catch {
      isKept = false; // some browsers keep nothing for files
    }
  }

  function recall() {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      if (kept === null) return;
      const known = new Set(data.pairs.map((pair) => pair[0]));
      const isEntry = (entry) => Array.isArray(entry) && known.has(entry[0]) && Object.hasOwn(words, entry[1]);
      if (!/^[0-9a-f]{16}$/.test(kept.session) || !kept.log.every(isEntry)) return;
      ({ session, log } = kept);
    } catch {
      isKept = false;
    }
  }

  function firstOpen(from = 0) {
    const given = answers();
    const open = (pair) => !Object.hasOwn(given, pair[0]);
    const later = data.pairs.findIndex((pair, index) => index >= from && open(pair));
    const any = later >= 0 ? later : data.pairs.findIndex(open);
    return any >= 0 ? any : data.pairs.length;
  }

  function answer(word) {
    if (at >= data.pairs.length) return;
    log.push([data.pairs[at][0], word]);
    isSaved = false;
    keep();
    at = firstOpen(at + 1);
    show();
  }

  function undo() {
    const last = log.pop();
    if (last === undefined) return;
    isSaved = false;
    keep();
    at = data.pairs.findIndex((pair) => pair[0] === last[0]);
    show();
  }

  function move(by) {
    at = Math.min(Math.max(at + by, 0), data.pairs.length);
    show();
  }

  function save() {
    const content = { format: data.format, page: data.page, session, answers: answers() };
    const text = JSON.stringify(content, null, 1) + "\n";
    byId("saved").hidden = false;
    document.querySelector("#saved textarea").value = text;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = data.name + "-" + session.slice(0, 4) + ".answers.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    isSaved = true;
  }

  function startOver() {
    if (log.length > 0 && !confirm("Forget all answers on this page?")) return;
    session = newSession();
    log = [];
    at = 0;
    isSaved = true;
    byId("saved").hidden = true;
    keep();
    show();
  }

  function toggleHelp() {
    const help = byId("help");
    help.hidden = !help.hidden;
    byId("ask").setAttribute("aria-expanded", String(!help.hidden));
  }

  function show() {
    const given = answers();
    const done = Object.keys(given).length;
    const total = data.pairs.length;
    const isEnd = at >= total;
    const progress = document.querySelector(".progress");
    progress.setAttribute("aria-valuemax", String(total));
    progress.setAttribute("aria-valuenow", String(done));
    progress.firstElementChild.style.width = (100 * done) / total + "%";
    byId("count").textContent = (isEnd ? "" : "Pair " + (at + 1) + " of " + total + " · ") + done + " of " + total + " answered";
    byId("pair").hidden = isEnd;
    byId("done").hidden = !isEnd;
    if (isEnd && done < total) {
      document.querySelector("#done h2").textContent = total - done + " pairs have no answer yet";
    } else {
      document.querySelector("#done h2").textContent = "All pairs are answered";
    }
    const current = isEnd ? undefined : given[data.pairs[at][0]];
    byId("given").textContent = current === undefined ? "" : "Your answer: " + words[current];
    for (const button of document.querySelectorAll("[data-answer]")) {
      button.disabled = isEnd;
      button.setAttribute("aria-pressed", String(button.dataset.answer === current));
    }
    byId("undo").disabled = log.length === 0;
    byId("back").disabled = at === 0;
    byId("next").disabled = isEnd;
    byId("export").classList.toggle("wanted", done === total);
    byId("kept").textContent = isKept
      ? "Answers stay in this browser when you close the page."
      : "This browser keeps no answers for this page: save them before you close it.";
    if (!isEnd) draw(data.pairs[at]);
  }

  function draw(pair) {
    const [left, right, nearLeft, nearRight] = pair.slice(1).map((index) => data.images[index]);
    const sources = { "#left img": left, "#right img": right, "#near-left img": nearLeft, "#near-right img": nearRight };
    for (const [selector, source] of Object.entries(sources)) document.querySelector(selector).src = source;
    const [under, over] = document.querySelectorAll("#difference img");
    under.src = left;
    over.src = right;
  }

  const keys = {
    y: () => answer("y"), n: () => answer("n"), "?": () => answer("?"), u: undo, backspace: undo,
    arrowleft: () => move(-1), arrowright: () => move(1), s: save, h: toggleHelp,
  };
  document.addEventListener("keydown", (event) => {
    // A key that is held down answers once; a letter in the text of answers is no answer.
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "TEXTAREA") return;
    const act = keys[event.key.toLowerCase()];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => answer(button.dataset.answer));
  }
  byId("undo").addEventListener("click", undo);
  byId("back").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("export").addEventListener("click", save);
  byId("ask").addEventListener("click", toggleHelp);
  byId("anew").addEventListener("click", startOver);
  window.addEventListener("beforeunload", (event) => {
    if (!isKept && !isSaved) event.preventDefault();
  });

  byId("subject").textContent = "Model " + data.model + " · data " + data.dataset + " · closest pairs of " + data.samples + " samples, among controls";
  recall();
  keep(); // tells whether this browser keeps anything
  at = firstOpen();
  if (log.length > 0) toggleHelp();
  show();
})();
