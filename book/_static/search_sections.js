/* Search results lead to sections: for every page that Sphinx's search finds, those of its sections that say most about
   the words. search_sections_data.js holds their anchors, titles, and how often each stem of a word occurs in them. */
(() => {
  if (typeof Search === "undefined" || typeof SEARCH_SECTIONS === "undefined") return;
  const MOST = 2; // sections of one page

  const occurrences = (counts, word) => {
    if (Object.hasOwn(counts, word)) return counts[word];
    if (word.length < 3) return 0;
    return Object.keys(counts).filter(stem => stem.includes(word)).reduce((sum, stem) => sum + counts[stem] / 2, 0);
  };

  const score = ([, , titled, counts], words) => {
    let sum = 0;
    for (const word of words) {
      const often = occurrences(counts, word), named = titled.includes(word);
      if (!often && !named) return 0; // a section has all the words, or it is no answer
      sum += Math.min(often, 8) + (named ? 12 : 0);
    }
    return sum / words.length;
  };

  const pages = Search.performTermsSearch;
  Search.performTermsSearch = (searchTerms, excludedTerms) => {
    const words = [...searchTerms], results = [];
    for (const page of pages(searchTerms, excludedTerms)) {
      const [name, title, , description, points, file] = page;
      const found = (SEARCH_SECTIONS[name] || []).map(section => [score(section, words), section]);
      const best = found.filter(([value]) => value > 0).sort((a, b) => b[0] - a[0]).slice(0, MOST);
      if (!best.length) results.push(page);
      for (const [value, [anchor, heading]] of best) {
        const where = heading === title ? title : `${title} > ${heading}`;
        results.push([name, where, heading === title ? "" : `#${anchor}`, description, points + value, file]);
      }
    }
    return results;
  };

  /* An entry of the glossary is named by its word, and its summary is what the entry says. A place without text of its
     own, such as a target beside a heading, is summed up by its page: Sphinx fails where there is nothing to show. */
  const text = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const term = anchor?.startsWith("#term-") && new DOMParser().parseFromString(page, "text/html").querySelector(anchor);
    return term ? term.nextElementSibling?.textContent ?? term.textContent : text(page, anchor) || text(page) || "…";
  };
  const all = Search._performSearch;
  Search._performSearch = (...query) => all(...query).map(result => {
    const term = /^#term-(.+)$/.exec(result[2]);
    return term && result[1] === "Glossary" ? [result[0], `Glossary > ${term[1].replaceAll("-", " ")}`, ...result.slice(2)] : result;
  });
})();
