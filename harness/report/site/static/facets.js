"use strict";
// What the pages share: their data, and filters that live in the address so that a link repeats a view. Loaded
// before the page is drawn, so that no link can be used before it takes the filter along.
const Site = {
  json(id) {
    return JSON.parse(document.getElementById(id).textContent);
  },

  parameters() {
    return new URLSearchParams(window.location.search);
  },

  // Writes the given values into the address; empty ones leave it.
  remember(values) {
    const parameters = Site.parameters();
    for (const [name, value] of Object.entries(values)) {
      if (value) parameters.set(name, value);
      else parameters.delete(name);
    }
    const query = parameters.toString();
    const address = window.location.pathname + (query ? `?${query}` : "") + window.location.hash;
    window.history.replaceState(null, "", address);
  },

  // Controls begin disabled: what is chosen before somebody listens would be lost.
  listens() {
    for (const controls of document.querySelectorAll("[data-controls]")) controls.disabled = false;
  },

  // Links marked data-keep take the filter along that is in the address when they are used.
  carry(event) {
    const link = event.target.closest?.("a[data-keep]");
    if (link) link.search = window.location.search;
  },

  // On a phone filters begin folded. Called right behind them, before they are drawn: nothing is to move under
  // a finger.
  fold(box) {
    box.open = !window.matchMedia("(max-width: 760px)").matches;
  },

  // An element with text, never markup: records may hold any names.
  element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  },
};
for (const use of ["click", "auxclick", "contextmenu", "dragstart"]) document.addEventListener(use, Site.carry, true);
