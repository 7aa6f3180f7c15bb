// Keeps the first page up to date. Without script it shows what was so when it was opened.
"use strict";
(() => {
  const SECONDS = 5;
  // A page that nobody touches shall not keep its login alive for ever.
  const UNTOUCHED_MINUTES = 15;
  const live = document.getElementById("live");
  const button = document.getElementById("pause");
  let touched = Date.now();
  let paused = false;

  const pause = (whether) => {
    paused = whether;
    button.setAttribute("aria-pressed", String(whether));
  };

  // What has the focus is found again by what it is, or the parts stay as they are.
  const nameOf = (element) => element.getAttribute("href");

  const replace = (markup) => {
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    const next = document.createElement("div");
    next.append(...new DOMParser().parseFromString(markup, "text/html").body.childNodes);
    if (focused) {
      const again = [...next.querySelectorAll("a")].find((link) => nameOf(link) === nameOf(focused));
      if (!again) return;
      live.replaceChildren(...next.childNodes);
      again.focus({ preventScroll: true });
    } else {
      live.replaceChildren(...next.childNodes);
    }
  };

  const isSelecting = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && live.contains(selection.anchorNode);
  };

  const look = async () => {
    if (Date.now() - touched > UNTOUCHED_MINUTES * 60_000) pause(true);
    if (paused || document.hidden || isSelecting()) return;
    try {
      const answer = await fetch(live.dataset.from, { credentials: "same-origin", redirect: "manual" });
      if (answer.type === "opaqueredirect") location.reload();
      else if (answer.ok && !paused) replace(await answer.text());
    } catch {
      // The server is away for a moment: the next look will tell.
    }
  };

  const again = async () => {
    await look();
    setTimeout(again, SECONDS * 1000);
  };

  for (const what of ["pointerdown", "keydown", "scroll"]) {
    document.addEventListener(what, () => { touched = Date.now(); }, { passive: true });
  }
  button.addEventListener("click", () => pause(!paused));
  button.hidden = false;
  setTimeout(again, SECONDS * 1000);
})();
