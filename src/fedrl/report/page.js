"use strict";
// Draws the charts in the colours of the reader's theme, and again when the theme changes.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);

  // "theme:series-0@0.2" -> "rgba(0, 103, 168, 0.2)"
  function colour(word) {
    const [name, opacity] = word.slice("theme:".length).split("@");
    const value = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    if (!opacity) return value;
    const parts = [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16));
    return `rgba(${parts.join(", ")}, ${opacity})`;
  }

  function themed(value) {
    if (typeof value === "string") return value.startsWith("theme:") ? colour(value) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(themed);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item)]));
  }

  function draw(name) {
    const { data, layout } = themed(charts[name]);
    const box = document.querySelector(`[data-chart="${name}"]`);
    for (const trace of data) if (trace.meta === "agents" && box && !box.checked) trace.visible = false;
    const config = {
      responsive: true,
      displaylogo: false,
      showSendToCloud: false, // plotly.js offers to upload charts unless told otherwise
      plotlyServerURL: "",
      displayModeBar: document.getElementById(name).clientWidth < 480 ? false : "hover", // it would cover the legend
      modeBarButtonsToRemove: ["lasso2d", "select2d"],
      toImageButtonOptions: { format: "svg", filename: name },
    };
    Plotly.react(name, data, layout, config);
  }

  const all = () => Object.keys(charts).forEach(draw);
  all();
  for (const box of document.querySelectorAll("[data-chart]"))
    box.addEventListener("change", () => draw(box.dataset.chart));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
