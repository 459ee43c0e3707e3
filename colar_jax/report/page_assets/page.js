"use strict";
// The report's tables, and what is on the page. All text becomes text nodes: nothing that a question says is ever markup.

const { report, samples, samplesLeftOut } = JSON.parse(document.getElementById("data").textContent);

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
const byId = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1);
const signed = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)}`;
const unique = (values) => [...new Set(values)];

function shortNumber(value) {
  return value === 0 ? "0" : value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}
function quantity(value, unit) {
  const prefixes = ["", "k", "M", "G", "T", "P", "E"];
  let power = 0;
  for (; value >= 999.5 && power < prefixes.length - 1; power += 1) value /= 1000;
  return `${shortNumber(value)} ${prefixes[power]}${unit}`;
}

// Tables

function fillTable(table, header, rows) {
  const cell = (tag, content) => {
    const isNumber = content instanceof Object && !(content instanceof Node);
    return element(tag, isNumber ? "number" : "", ...(isNumber ? content.parts : [content]));
  };
  table.replaceChildren(
    element("thead", "", element("tr", "", ...header.map((content) => cell("th", content)))),
    element("tbody", "", ...rows.map((row) => element("tr", row.isFirst ? "first" : "", ...row.cells.map((content) => cell("td", content))))),
  );
}
const number = (...parts) => ({ parts });

// Columns that say what a row is; those in which no row says anything are left out.
const WAY_COLUMNS = { run: "run", stage: "stage", speed: "speed", latent_limit: "limit", temperature: "temperature", sampling: "sampling" };
function wayColumns(rows) {
  return Object.keys(WAY_COLUMNS).filter((key) => !["run", "latent_limit", "temperature"].includes(key) || rows.some((row) => !["", "-"].includes(row[key])));
}
const wayCells = (row, columns) => columns.map((key) => row[key] + (key === "speed" && row.was_trained === false && row.speed !== "-" ? " *" : ""));
const stageOf = (row) => `${row.run}:${row.stage}`;

function rowsOf(records) {
  const rows = new Map();
  for (const record of records) {
    if (!rows.has(record.name)) rows.set(record.name, { ...record, of: {} });
    rows.get(record.name).of[record.dataset] = record;
  }
  return [...rows.values()].map((row, i, all) => ({ ...row, isFirst: i > 0 && stageOf(row) !== stageOf(all[i - 1]) }));
}

function showResults() {
  const rows = rowsOf(report.results), columns = wayColumns(rows), hasMeans = report.means.length > 0;
  const means = new Map(report.means.map((mean) => [mean.name, mean]));
  const plusMinus = (interval) => (interval.low === null ? "" : ` ± ${percent((interval.high - interval.low) / 2)}`);
  const cellOf = (record) => {
    if (!record) return "–";
    const interval = record.accuracy_over_questions;
    const range = interval ? `[${percent(interval.low)}, ${percent(interval.high)}] ` : "";
    const center = percent(interval ? interval.center : record.accuracy_over_seeds.center);
    return element("span", "", element("strong", "", center), plusMinus(record.accuracy_over_seeds), element("small", "", `${range}/ ${shortNumber(record.mean_length)}`));
  };
  fillTable(
    byId("results"),
    [...columns.map((key) => WAY_COLUMNS[key]), ...report.datasets, ...(hasMeans ? ["mean"] : [])],
    rows.map((row) => ({
      isFirst: row.isFirst,
      cells: [...wayCells(row, columns), ...report.datasets.map((name) => cellOf(row.of[name])), ...(hasMeans ? [cellOf(means.get(row.name))] : [])],
    })),
  );
}

function showDifferences() {
  if (report.differences.length === 0) return;
  byId("differences-section").hidden = false;
  const rows = rowsOf(report.differences), datasets = unique(report.differences.map((record) => record.dataset));
  const cellOf = (record) => {
    if (!record) return "–";
    const { center, low, high } = record.accuracy;
    return element("span", "", element("strong", "", signed(center)), low === null ? "" : element("small", "", `[${signed(low)}, ${signed(high)}]`));
  };
  fillTable(byId("differences"), ["row", ...datasets, "minus"], rows.map((row) => ({
    isFirst: row.isFirst, cells: [row.name, ...datasets.map((name) => cellOf(row.of[name])), row.reference],
  })));
}

function showCausal() {
  if (!report.causal) return;
  byId("causal-section").hidden = false;
  const names = { run: "run", dataset: "data set", stage: "stage", speed: "speed", intervention: "intervention" };
  const columns = Object.keys(names).filter((key) => report.causal.some((test) => test[key]));
  fillTable(byId("causal"), [...columns.map((key) => names[key]), number("accuracy"), "difference", "used"], report.causal.map((test) => ({
    cells: [
      ...columns.map((key) => test[key] ?? ""), number(percent(test.accuracy)),
      `${signed(test.difference)} [${signed(test.interval[0])}, ${signed(test.interval[1])}]`,
      test.intervention === "none" ? "" : test.used ? "yes" : "no",
    ],
  })));
}

function showCosts() {
  const rows = report.results.filter((row) => row.cost);
  if (rows.length === 0) return;
  byId("costs-section").hidden = false;
  const columns = wayColumns(rows);
  const at = (of, k) => number(of[k] === undefined ? "–" : percent(of[k]));
  const header = ["#L", "forward passes", "FLOPs", "KV cache", "ms a question", "seeds k", "pass@k", "majority@k"];
  fillTable(byId("costs"), [...columns.map((key) => WAY_COLUMNS[key]), "data set", ...header.map((text) => number(text))], rows.map((row, i) => ({
    isFirst: i > 0 && stageOf(row) !== stageOf(rows[i - 1]),
    cells: [
      ...wayCells(row, columns), row.dataset, number(shortNumber(row.mean_length)), number(shortNumber(row.cost.forward_passes)),
      number(quantity(row.cost.flops, "")), number(quantity(row.cost.kv_bytes, "B")), number(shortNumber(1000 * row.cost.seconds_per_question)),
      number(String(row.num_seeds)), at(row.pass_at, row.num_seeds), at(row.majority_at, row.num_seeds),
    ],
  })));
}

// Controls: a labelled choice of the values that there are; none where there is only one.

function choice(container, label, values, onChange, all) {
  const options = all ? [all, ...values] : values;
  if (values.length < 2) return () => (all ? "" : values[0]);
  const select = element("select", "", ...options.map((text, i) => { const option = element("option", "", text); option.value = all && i === 0 ? "" : text; return option; }));
  select.addEventListener("change", onChange);
  container.append(element("label", "", label, select));
  return () => select.value;
}

function showPlot() {
  const stages = unique(report.pareto.map(stageOf));
  const colourOf = (point) => `var(--c${stages.indexOf(stageOf(point)) % 6})`;
  const draw = () => drawPlot(byId("plot"), report.pareto.filter((point) => point.dataset === dataset() && point.sampling === sampling()), colourOf);
  const dataset = choice(byId("plot-controls"), "data set", unique(report.pareto.map((point) => point.dataset)), draw);
  const samplings = unique(report.pareto.map((point) => point.sampling));
  const sampling = choice(byId("plot-controls"), "decoding", samplings, draw);
  draw();
  window.addEventListener("resize", draw);
  const names = new Map(report.pareto.map((point) => [stageOf(point), point.run ? `${point.run}: ${point.stage}` : point.stage]));
  byId("plot").after(element("div", "legend", ...[...names].map(([stage, name]) => {
    const entry = element("span", "", name);
    entry.style.setProperty("--colour", `var(--c${stages.indexOf(stage) % 6})`);
    return entry;
  })));
}

function showTiming() {
  const timing = report.timing;
  if (!timing) return;
  byId("timing").textContent = `${timing.num_decoded.toLocaleString("en")} examples decoded in ${timing.seconds.toFixed(1)} s`
    + ` (${shortNumber(timing.examples_per_second)} a second, host ${percent(timing.host_share)} %),`
    + ` ${timing.num_compiled} programs compiled in ${timing.compile_seconds.toFixed(1)} s.`;
}

document.getElementById("title").textContent = report.title;
byId("notes").textContent = report.notes;
showResults();
showPlot();
showDifferences();
showCausal();
showCosts();
showSamples();
showTiming();
