"use strict";

const at = (id) => document.getElementById(id);
let latest = 0;

function cell(row, content) {
  row.insertCell().append(content);
}

function distanceBar(distance, threshold) {
  const bar = document.createElement("meter");
  bar.max = Math.max(2 * threshold, distance, Number.MIN_VALUE);
  bar.low = bar.high = Math.min(threshold, bar.max);
  bar.optimum = 0;
  bar.value = distance;
  return bar;
}

function show({ measure, threshold, answers: [answer] }) {
  at("verdict").textContent = answer.verdict === "known" ? `This is ${answer.pid}.` : "Nobody who is enrolled.";
  const table = at("ranked");
  table.caption.textContent = `${measure} distance; up to ${threshold.toFixed(3)} it is the same identity`;
  table.tBodies[0].replaceChildren();
  answer.nearest.forEach((near, rank) => {
    const row = table.tBodies[0].insertRow();
    cell(row, rank + 1);
    cell(row, near.pid);
    cell(row, near.distance.toFixed(3));
    cell(row, distanceBar(near.distance, threshold));
    cell(row, near.camid ?? "");
  });
  table.hidden = answer.nearest.length === 0;
}

async function identify() {
  const file = at("file").files[0];
  if (!file) return;
  const number = ++latest;
  URL.revokeObjectURL(at("picture").src);
  at("picture").src = URL.createObjectURL(file);
  at("picture").hidden = false;
  at("ranked").hidden = true;
  at("verdict").textContent = "…";
  const form = new FormData();
  form.append("image", file, "image");
  form.append("k", "20");
  const token = at("token").value.trim();
  if (/[^\x21-\x7e]/.test(token)) {
    at("verdict").textContent = "A token has letters, digits and signs of ASCII alone.";
    return;
  }
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    const response = await fetch("/identify", { method: "POST", body: form, headers });
    answer = await response.json();
    at("access").hidden = response.status !== 401;
  } catch {
    answer = { error: "the service doesn't answer" };
  }
  if (number !== latest) return;
  if (answer.error) at("verdict").textContent = answer.error;
  else show(answer);
}

at("file").addEventListener("change", identify);
at("token").addEventListener("change", identify);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  at("file").files = event.dataTransfer.files;
  identify();
});
