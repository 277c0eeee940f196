"use strict";
// What the pages share: their data, and filters that live in the address so that a link repeats a view.
const Site = {
  json(id) {
    return JSON.parse(document.getElementById(id).textContent);
  },

  parameters() {
    return new URLSearchParams(window.location.search);
  },

  // Writes the given values into the address; empty ones leave it. Links between pages follow.
  remember(values) {
    const parameters = Site.parameters();
    for (const [name, value] of Object.entries(values)) {
      if (value) parameters.set(name, value);
      else parameters.delete(name);
    }
    const query = parameters.toString();
    const address = window.location.pathname + (query ? `?${query}` : "") + window.location.hash;
    window.history.replaceState(null, "", address);
    Site.carry();
  },

  // Links marked data-keep take the current filter along.
  carry() {
    for (const link of document.querySelectorAll("a[data-keep]")) {
      link.search = window.location.search;
    }
  },

  // An element with text, never markup: records may hold any names.
  element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  },
};
Site.carry();
