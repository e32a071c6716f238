"use strict";
// Draws the plots as they come into view, and gives the page its switches. Text of the user's is only ever set as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map(); // chart id -> its Vega view
  const mode = () => root.dataset.theme || (system.matches ? "dark" : "light");

  async function draw(element) {
    const chart = data.charts[element.id];
    if (!chart || element.dataset.drawn === mode()) return;
    const before = drawn.get(element.id);
    const kept = before ? before.getState({ data: () => false, signals: (name) => wanted.has(name) }) : null;
    element.dataset.drawn = mode();
    try {
      if (before) before.finalize();
      const made = await vegaEmbed(element, chart.spec, {
        actions: false, renderer: "svg", config: configOf(element, chart), tooltip: tell(element),
        logLevel: 1, // errors alone: a series that is hidden leaves an axis without values
      });
      drawn.set(element.id, made.view);
      if (kept) await made.view.setState(kept).runAsync();
      await applySwitches(element);
    } catch (error) {
      element.dataset.failed = String(error);
      element.textContent = "This plot could not be drawn: " + error;
      throw error;
    }
  }

  function configOf(element, chart) {
    const config = data.configs[mode()][chart.palette];
    // On a phone long names would leave no room for what they name.
    return { ...config, axis: { ...config.axis, labelLimit: Math.min(240, element.clientWidth * 0.3) } };
  }

  // --- switches

  const wanted = new Set(["hidden"]);
  document.querySelectorAll("[data-param]").forEach((box) => wanted.add(box.dataset.param));

  const chartsOf = (view) => [...view.querySelectorAll(".chart")];
  const isShown = (element) => element.offsetParent !== null;

  async function applySwitches(element) {
    const view = drawn.get(element.id), place = element.closest(".view");
    if (!view || !place) return;
    const hidden = [...place.querySelectorAll(".legend button[aria-pressed=false]")].map((one) => one.dataset.series);
    const boxes = [...place.querySelectorAll("[data-param]")];
    const known = new Set((data.charts[element.id].spec.params || []).map((param) => param.name));
    if (known.has("hidden")) view.signal("hidden", hidden);
    boxes.forEach((box) => known.has(box.dataset.param) && view.signal(box.dataset.param, box.checked));
    await view.runAsync();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.series !== undefined) {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      chartsOf(button.closest(".view")).forEach(applySwitches);
    } else if (button.dataset.mode) {
      setTheme(button.dataset.mode);
    } else if (button.closest("th")) {
      sort(button.closest("th"));
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.dataset.param) chartsOf(event.target.closest(".view")).forEach(applySwitches);
    if (event.target.dataset.choice) choose(event.target);
  });

  function choose(select) {
    for (const view of document.querySelectorAll(".view")) {
      if (view.dataset.panel === select.dataset.choice) view.hidden = view.id !== select.value;
    }
    look();
  }

  // --- light and dark

  function setTheme(asked) {
    if (asked === "auto") delete root.dataset.theme;
    else root.dataset.theme = asked;
    document.querySelectorAll("[data-mode]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.mode === asked)));
    look();
  }
  system.addEventListener("change", () => look());

  // --- drawing what is in view, or will be soon

  const near = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.add(entry.target); draw(entry.target); } else near.delete(entry.target);
    }
  }, { rootMargin: "600px 0px" });
  const look = () => near.forEach((element) => isShown(element) && draw(element));
  document.querySelectorAll(".chart").forEach((element) => watcher.observe(element));
  const drawAll = () => Promise.all([...document.querySelectorAll(".chart")].filter(isShown).map(draw));
  addEventListener("beforeprint", drawAll);
  window.featcache = { drawAll, views: drawn };

  // --- what is told of a mark

  const tip = document.getElementById("tip");
  const tell = (element) => (_handler, event, item, value) => {
    if (!value || typeof value !== "object") { tip.hidden = true; return; }
    tip.textContent = "";
    const images = data.images[data.thumbnails[element.closest(".view").id]];
    const image = images && item && item.datum ? images[String(item.datum.row)] : undefined;
    if (image) tip.append(Object.assign(document.createElement("img"), { src: image, alt: "" }));
    const list = document.createElement("dl");
    for (const [name, text] of Object.entries(value)) {
      if (text === undefined || text === null || text === "undefined") continue;
      list.append(Object.assign(document.createElement("dt"), { textContent: name }));
      list.append(Object.assign(document.createElement("dd"), { textContent: String(text) }));
    }
    tip.append(list);
    tip.hidden = false;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const y = event.clientY + 14 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 14;
    tip.style.left = Math.max(8, x) + "px";
    tip.style.top = Math.max(8, y) + "px";
  };
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // --- tables sort by their heads

  for (const head of document.querySelectorAll("thead th")) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    head.textContent = "";
    head.append(button);
  }
  const amount = (cell) => {
    const found = cell.textContent.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
    return found ? Number(found[0]) : null;
  };
  function sort(head) {
    const at = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    [...head.parentNode.children].forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [row, row.cells[at], amount(row.cells[at])]);
    rows.sort(([, a, x], [, b, y]) => {
      const order = x !== null && y !== null ? x - y : x === null && y === null
        ? a.textContent.localeCompare(b.textContent) : x === null ? -1 : 1;
      return down ? -order : order;
    });
    rows.forEach(([row]) => body.append(row));
  }
})();
