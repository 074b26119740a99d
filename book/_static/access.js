// Reading with a keyboard, where the theme leaves gaps; see also access.css.
document.addEventListener("DOMContentLoaded", () => {
  // The theme takes the focus away from a button that was pressed, so that its tooltip goes. A pointer does not miss
  // it; a keyboard would start again at the top of the page.
  const buttons = document.querySelectorAll(".theme-switch-button, .search-button, .primary-toggle, .secondary-toggle");
  for (const button of buttons)
    button.blur = () => button.matches(":focus-visible") || HTMLElement.prototype.blur.call(button);

  // A drawer that closes gives the focus back to what opened it.
  for (const side of ["primary", "secondary"]) {
    const drawer = document.getElementById(`pst-${side}-sidebar-modal`);
    const toggle = document.querySelector(`.${side}-toggle`);
    drawer?.addEventListener("close", () => toggle?.focus());
  }

  // What scrolls sideways can be reached and says what it is. The theme does so for code alone.
  const wide =
    ".pst-scrollable-table-container, .cell_output .text_html, .output.figure, mjx-container[display='true'], .bd-article pre";
  const names = {PRE: "Code", "MJX-CONTAINER": "Formula"};
  const reach = () => {
    for (const box of document.querySelectorAll(wide)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
      if (!scrolls) {
        if (box.dataset.wide) ["tabindex", "role", "aria-label", "data-wide"].forEach(name => box.removeAttribute(name));
        continue;
      }
      box.tabIndex = 0;
      if (box.hasAttribute("aria-label") || box.tagName === "MJX-CONTAINER") continue;
      box.dataset.wide = "";
      box.setAttribute("role", "group");
      const name = box.matches(".figure") ? "Figure" : names[box.tagName] ?? "Table";
      box.setAttribute("aria-label", `${name}, scrolls sideways`);
    }
  };
  reach();

  // The button of something folded is named after it, and not a dozen times "Toggle hidden content".
  window.addEventListener("load", () => {
    for (const button of document.querySelectorAll(".admonition-title .toggle-button"))
      button.setAttribute("aria-label", button.parentElement.textContent.trim().replace(/\s+/g, " "));
  });
  window.MathJax?.startup?.promise?.then(reach);
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
});
