"use strict";
const root = document.documentElement;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Sorting: a click on a column head sorts by full precision, missing values last.
function key(row, column) {
  const { v, ...rules } = row.cells[column].dataset;
  return v ?? rules[root.dataset.rule] ?? "";
}

function compare(a, b, descending) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = a.trim() !== "" && b.trim() !== "" && !isNaN(a) && !isNaN(b);
  const order = numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
  return descending ? -order : order;
}

function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const falling = head.getAttribute("aria-sort") === "ascending"
    || (head.getAttribute("aria-sort") === "none" && head.classList.contains("falls"));
  all("th[aria-sort]", table.tHead).forEach(each => each.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = [...body.rows].map(row => [key(row, column), row]);
  rows.sort((a, b) => compare(a[0], b[0], falling));
  body.append(...rows.map(([, row]) => row));
}

// Filtering: rows must contain every word; tables without rows are hidden.
const field = document.getElementById("filter");
const selects = all(".controls select");
const count = document.getElementById("count");

function filter() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, total = 0;
  for (const section of all("section.table")) {
    const chosen = selects.every(s => !s.value || section.dataset[s.id] === s.value);
    const labels = new Set();
    for (const row of all("tbody tr", section)) {
      const kept = chosen && words.every(word => row.dataset.t.includes(word));
      row.hidden = !kept;
      if (kept) labels.add(row.dataset.m);
      if (row.closest("table").className === "results") { total += 1; shown += kept; }
    }
    section.hidden = labels.size === 0;
    for (const mark of all("svg [data-m]", section)) {
      mark.classList.toggle("off", !labels.has(mark.dataset.m));
    }
  }
  count.value = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
}

// Highlighting: hovering or focusing a method highlights it in the charts of its table.
function point(event) {
  const section = event.target.closest("section.table");
  const label = event.target.closest("[data-m]")?.dataset.m;
  for (const other of all(".pointing")) other.classList.remove("pointing");
  for (const mark of all(".pointed")) mark.classList.remove("pointed");
  if (!section || label === undefined) return;
  section.classList.add("pointing");
  for (const mark of all("[data-m]", section)) {
    if (mark.dataset.m === label) mark.classList.add("pointed");
  }
}

document.addEventListener("click", event => {
  const button = event.target.closest("th button");
  if (button) sort(button.parentElement);
});
document.addEventListener("mouseover", point);
document.addEventListener("focusin", point);
document.querySelector(".controls").addEventListener("input", event => {
  if (event.target.name === "rule") root.dataset.rule = event.target.value;
  filter();
});
document.querySelector(".controls").addEventListener("submit", event => event.preventDefault());
window.addEventListener("beforeprint", () => {
  for (const details of all("td details")) details.open = true;
});
root.classList.add("scripted");
filter();
