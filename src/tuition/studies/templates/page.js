"use strict";
const byId = id => document.getElementById(id);

// Light and dark: the reader's system decides until the button does.
const dark = () => document.documentElement.dataset.theme
  ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { byId("theme").textContent = dark() ? "◐ light" : "◐ dark"; };
byId("theme").onclick = () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; nameTheme(); };
nameTheme();
matchMedia("(prefers-color-scheme: dark)").onchange = nameTheme;

// A table wider than the page says so.
const watched = new ResizeObserver(entries => {
  for (const {target: {parentNode: box}} of entries) box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth;
});
for (const table of document.querySelectorAll(".scroll > table")) watched.observe(table);

// Sorting: numbers by size, unknown last, else by name. The first click on a number puts the largest on top.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}
function turn(th, numeric) {
  const next = th.ariaSort === "descending" ? "ascending" : th.ariaSort === "ascending" || numeric ? "descending" : "ascending";
  for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", next);
  return next === "ascending" ? 1 : -1;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent === "-" ? null : cell.textContent;
  };
  for (const th of table.tHead.rows[0].cells) th.firstChild.onclick = () => {
    const rows = [...body.rows], column = th.cellIndex;
    const sign = turn(th, rows.some(row => typeof value(row, column) === "number"));
    body.append(...rows.sort((a, b) => compare(value(a, column), value(b, column), sign)));
  };
}
