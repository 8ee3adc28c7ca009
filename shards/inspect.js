"use strict";
// Which windows are shown.
for (const input of document.querySelectorAll("input[name=show]")) {
  input.addEventListener("change", () => {
    for (const card of document.querySelectorAll(".card")) {
      card.hidden = input.value !== "all" && card.dataset.kind !== input.value;
    }
  });
}
// A frame at its full size; the arrow keys go on within its window.
const dialog = document.querySelector("#zoom");
let frames = [], at = 0;
function show(number) {
  at = (number + frames.length) % frames.length;
  const source = frames[at].querySelector("img"), image = dialog.querySelector("img");
  image.src = source.src;
  image.alt = source.alt;
  dialog.querySelector("p").textContent = source.alt;
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.frame");
  if (button) {
    frames = [...button.closest(".frames").querySelectorAll("button.frame")];
    show(frames.indexOf(button));
    dialog.showModal();
  } else if (event.target === dialog || event.target.closest("#zoom .close")) {
    dialog.close();
  } else if (event.target.closest("#zoom .previous")) {
    show(at - 1);
  } else if (event.target.closest("#zoom .next")) {
    show(at + 1);
  }
});
dialog?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(at - 1);
  if (event.key === "ArrowRight") show(at + 1);
});
