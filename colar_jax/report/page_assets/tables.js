"use strict";
// Tables whose cells are text already, each with buttons that copy it.

// The first number of a cell stands out, what is in brackets or after a slash steps back.
function cellContent(text) {
  const parts = /^([+-]?[0-9][0-9.,]*)( ± [0-9.]+)?( [[/].*)$/.exec(text);
  return parts ? [element("strong", "", parts[1]), parts[2] ?? "", element("small", "", parts[3])] : [text];
}

function isNumeric(table, column) {
  return table.rows.length > 0 && table.rows.every((row) => /^([+-]?[0-9][0-9.,]*( ?[kMGTPE]?B?)?( \(k = [0-9]+\))?|-)$/.test(row[column]));
}

function tableElement(table) {
  const numeric = table.header.map((_, column) => isNumeric(table, column) && table.rows.some((row) => row[column] !== "-"));
  const cell = (tag, column, ...content) => element(tag, numeric[column] ? "number" : "", ...content);
  const made = element("table", "",
    element("thead", "", element("tr", "", ...table.header.map((text, column) => cell("th", column, text)))),
    element("tbody", "", ...table.rows.map((row, i) => element(
      "tr", i > 0 && table.groups[i] !== table.groups[i - 1] ? "first" : "", ...row.map((text, column) => cell("td", column, ...cellContent(text)))))));
  made.setAttribute("aria-label", table.title);
  return made;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page from a file may have no clipboard of its own
    const area = element("textarea", "", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copyButton(label, text) {
  const button = element("button", "copy", label);
  button.type = "button";
  button.addEventListener("click", async () => {
    await copyText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

function tableSection(table) {
  const buttons = element("div", "buttons", copyButton("Copy LaTeX", table.latex), copyButton("Copy CSV", table.csv));
  const parts = table.rows.length ? [element("div", "scroll", tableElement(table)), buttons] : [];
  return element("section", "", element("h2", "", table.title), ...parts, ...table.notes.map((note) => element("p", "quiet", note)));
}

function showTables() {
  const [first, ...others] = tables;
  byId("first-table").append(tableSection(first));
  byId("other-tables").append(...others.map(tableSection));
}
