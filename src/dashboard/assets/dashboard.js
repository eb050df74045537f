// What a script adds to pages that work without one: copying, and boxes that follow each other.
// Never builds markup from text, never changes anything without a form.

for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.querySelector(button.dataset.copy);
  if (!source || !navigator.clipboard) continue;
  const word = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = word; }, 1500);
  });
}

const every = document.querySelector("[data-every]");
if (every) {
  const types = document.querySelector(".types");
  const boxes = [...types.querySelectorAll("input")];
  const follow = () => types.classList.toggle("idle", every.checked);
  every.addEventListener("change", () => {
    if (every.checked) boxes.forEach((box) => { box.checked = false; });
    follow();
  });
  types.addEventListener("change", () => {
    if (boxes.some((box) => box.checked)) every.checked = false;
    follow();
  });
  follow();
}
