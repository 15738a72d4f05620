const escape = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

// Every run: drawn from the records below, a part at a time, so that thousands stay quick.
const data = JSON.parse(byId("data").textContent);
const percent = x => x === null ? "-" : x.toFixed(2);
const plain = x => x === null ? "-" : x.toLocaleString("en");
const columns = [
  ["method", r => r.method], ["data", r => r.dataset], ["student", r => r.student], ["calls", r => r.calls, plain],
  ["seed", r => r.seed], ["lr", r => r.learning_rate], ["for", r => r.status === "failed" ? "failed" : `${r.purpose}, ${r.accounting}`],
  ["validation", r => r.validation, percent], ["test", r => r.accuracy, percent], ["last epoch", r => r.accuracy_last, percent],
  ["seconds", r => r.seconds === null ? null : Math.round(r.seconds), plain],
];
const text = r => columns.map(([name, get]) => `${name}=${get(r)} ${get(r)}`).join(" ").toLowerCase();
data.runs.forEach(r => { r.text = text(r); });
let shown = data.runs, limit = 100;

function curve(points, column, width, height) {
  const xy = points.filter(p => p[column] !== null).map(p => [Number(p[0]), Number(p[column])]);
  if (xy.length < 2) return "";
  const range = k => { const v = xy.map(p => p[k]); return [Math.min(...v), Math.max(...v)]; };
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  const line = xy.map(([x, y]) => [1 + (width - 2) * (x - x0) / (x1 - x0), height - 1.5 - (height - 3) * (y - y0) / (y1 - y0 || 1)]
    .map(v => v.toFixed(1)).join(",")).join(" ");
  return `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" aria-hidden="true"><polyline points="${line}"
    fill="none" stroke="var(--blue)" stroke-width="1.4" stroke-linejoin="round"/></svg>`;
}
const value = x => x === null ? "-" : typeof x === "number" ? Number(x.toPrecision(6)) : typeof x === "object" ? JSON.stringify(x) : x;
const list = settings => Object.entries(settings).map(([name, x]) =>
  `<li><span>${escape(name)}</span><b>${escape(value(x))}</b></li>`).join("");

function detail(r) {
  const ends = column => { const v = r.curve.map(p => p[column]).filter(x => x !== null); return v.length ? [v[0], v.at(-1)] : null; };
  const panel = (name, column) => ends(column)
    ? `<div>${curve(r.curve, column, 260, 70)}${name}: ${escape(ends(column).join(" → "))}</div>` : "";
  const {curve: _, settings, versions, text, error, ...rest} = r;
  for (const known of ["method", "dataset", "student", "calls", "seed", "learning_rate", "purpose", "accounting", "status"]) delete rest[known];
  return `<div class="inner">${error ? `<p class="failed">${escape(error)}</p>` : ""}
    <div class="curves">${panel("training loss", 1)}${panel("validation (%)", 2)}</div>
    <ul class="settings">${list({...rest, ...settings, ...data.versions[versions]})}</ul></div>`;
}
function render() {
  byId("runs").tBodies[0].innerHTML = shown.slice(0, limit).map((r, i) => `<tr class="run" data-index="${i}" tabindex="0" aria-expanded="false">${
    columns.map(([name, get, show]) => `<td${name === "for" && r.status === "failed" ? ' class="failed"' : ""}>${
      escape((show || (x => x ?? "-"))(get(r)))}</td>`).join("")}<td>${curve(r.curve, 2, 90, 20)}</td></tr>`).join("");
  byId("more").hidden = shown.length <= limit;
  byId("more").textContent = `show all ${shown.length.toLocaleString("en")} runs`;
}
function toggle(row) {
  const open = row.getAttribute("aria-expanded") === "true";
  row.setAttribute("aria-expanded", String(!open));
  if (open) row.nextSibling.remove();
  else row.insertAdjacentHTML("afterend", `<tr><td class="detail" colspan="${columns.length + 1}">${detail(shown[row.dataset.index])}</td></tr>`);
}
byId("runs").tHead.innerHTML = `<tr>${columns.map(([name]) => `<th scope="col"><button type="button">${name}</button></th>`).join("")}<th>curve</th></tr>`;
columns.forEach(([, get], i) => {
  const th = byId("runs").tHead.rows[0].cells[i];
  th.firstChild.onclick = () => {
    const sign = turn(th, data.runs.some(r => typeof get(r) === "number"));
    shown = [...shown].sort((a, b) => compare(get(a), get(b), sign));
    render();
  };
});
byId("runs").tBodies[0].onclick = event => { const row = event.target.closest("tr.run"); if (row) toggle(row); };
byId("runs").tBodies[0].onkeydown = event => { if (event.key === "Enter" && event.target.matches("tr.run")) toggle(event.target); };
byId("filter").oninput = event => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  shown = data.runs.filter(r => words.every(word => r.text.includes(word)));
  render();
};
byId("more").onclick = () => { limit = Infinity; render(); };
byId("shared").innerHTML = list(data.shared);
render();
