// On paper the solutions stand at the end, out of sight of who still thinks, and come back when the paper is printed.
(() => {
  let section;
  window.addEventListener("beforeprint", () => {
    const solutions = document.querySelectorAll(".bd-article .solution");
    if (!solutions.length || section) return;
    section = document.createElement("section");
    section.className = "printed-solutions";
    section.innerHTML = "<h2>Solutions</h2>";
    for (const solution of solutions) {
      const place = document.createComment("a solution");
      solution.replaceWith(place);
      section.append(solution);
      solution.place = place;
    }
    document.querySelector(".bd-article").append(section);
  });
  window.addEventListener("afterprint", () => {
    section?.querySelectorAll(".solution").forEach(solution => solution.place.replaceWith(solution));
    section?.remove();
    section = undefined;
  });
})();
