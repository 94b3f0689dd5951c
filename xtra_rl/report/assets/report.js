"use strict";
// Sort a table by the column of a heading: numbers downwards first, names upwards first, averages and empty cells last.
function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.classList.contains("empty") ? null : cell.textContent.trim().toLowerCase();
}

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sort(button) {
  const heading = button.closest("th");
  const column = heading.cellIndex;
  const table = heading.closest("table");
  const rows = Array.from(table.tBodies[0].rows);
  const totals = rows.filter((row) => row.classList.contains("total"));
  const games = rows.filter((row) => !row.classList.contains("total"));
  const known = games.filter((row) => valueOf(row, column) !== null);
  const empty = games.filter((row) => valueOf(row, column) === null);
  const numeric = known.some((row) => typeof valueOf(row, column) === "number");
  const before = heading.getAttribute("aria-sort");
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const order = before === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  known.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  table.tBodies[0].append(...known, ...empty, ...totals);
}

for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => sort(button));
}
