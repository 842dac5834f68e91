// Light or dark before the first paint. The system decides until the button has been used; the choice is kept.
// A classic script, so that it runs before the page is drawn.
"use strict";
(() => {
  const key = "patchword.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is switched off: the system decides
    }
  }

  function isDark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : system.matches;
  }

  function show() {
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-pressed", String(isDark()));
  }

  function toggle() {
    const wanted = isDark() ? "light" : "dark";
    const isSystems = (wanted === "dark") === system.matches;
    if (isSystems) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      if (isSystems) localStorage.removeItem(key);
      else localStorage.setItem(key, wanted);
    } catch {
      // kept for this visit only
    }
    show();
  }

  const chosen = stored();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", toggle);
  });
})();
