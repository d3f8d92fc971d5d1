// Sorting, filtering and the theme.  Without this script the page is the same tables, in the order of their ranks.
"use strict";

(() => {
  const root = document.documentElement;
  const KEY = "piggyback-theme";

  // A browser may forbid storage, for instance to files: then the choice lasts as long as the page.
  const remember = (theme) => {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // forbidden
    }
  };
  const recall = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };

  const darkBySystem = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkBySystem.matches);
  const recalled = recall();
  if (recalled === "light" || recalled === "dark") root.dataset.theme = recalled;

  function setUpTheme() {
    const button = document.getElementById("theme");
    if (!button) return;
    const say = () => {
      button.textContent = isDark() ? "Light theme" : "Dark theme";
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      say();
    });
    darkBySystem.addEventListener("change", say);
    button.hidden = false;
    say();
  }

  // ---- sorting

  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function compare(one, other, numeric, descending) {
    // What is not there stays last in both directions.
    if (one === "" || other === "") return one === other ? 0 : one === "" ? 1 : -1;
    const found = numeric ? Number(one) - Number(other) : words.compare(one, other);
    return (descending ? -1 : 1) * (Number.isNaN(found) ? words.compare(one, other) : found);
  }

  const valueOf = (row, place) => {
    const cell = row.cells[place];
    return cell.dataset.value ?? cell.textContent.trim();
  };

  function sortBy(table, header, say) {
    const headers = [...header.parentElement.cells];
    const place = headers.indexOf(header);
    const before = header.getAttribute("aria-sort");
    const first = header.dataset.first === "descending" ? "descending" : "ascending";
    const now = before === null ? first : before === "ascending" ? "descending" : "ascending";
    for (const one of headers) one.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", now);
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [valueOf(row, place), row]);
    const numeric = header.dataset.sort === "number";
    keyed.sort((one, other) => compare(one[0], other[0], numeric, now === "descending"));
    body.append(...keyed.map((one) => one[1]));
    say.textContent = `sorted by ${header.textContent.trim()}, ${now}`;
  }

  function setUpSorting(table) {
    const say = document.createElement("p");
    say.className = "unseen";
    say.setAttribute("role", "status");
    (table.closest(".scroll") ?? table).after(say);
    for (const header of table.tHead.rows[0].cells) {
      if (!header.dataset.sort) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortBy(table, header, say));
    }
  }

  // ---- filtering

  function setUpFilters(tables) {
    const bar = document.getElementById("filters");
    if (!bar || tables.length === 0) return;
    const text = document.getElementById("filter-text");
    const find = (name) => document.getElementById(`filter-${name}`);
    const [method, protocol, evidence] = ["method", "protocol", "evidence"].map(find);
    const selects = [method, protocol, evidence];
    const agrees = (select, value) => select.value === "" || select.value === value;
    const status = document.getElementById("filter-status");
    const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const empty = new Map(
      tables.map((table) => {
        const note = document.createElement("p");
        note.className = "empty";
        note.textContent = "No row matches the filters.";
        note.hidden = true;
        table.closest(".scroll").after(note);
        return [table, note];
      }),
    );

    const apply = () => {
      const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const fits =
          agrees(method, row.dataset.method) &&
          agrees(evidence, row.dataset.evidence) &&
          // one of two groups, or a protocol by its name, which is marked by "="
          (agrees(protocol, row.dataset.official) || protocol.value === `=${row.dataset.protocol}`) &&
          wanted.every((word) => texts.get(row).includes(word));
        row.hidden = !fits;
        if (fits) shown += 1;
      }
      for (const [table, note] of empty) note.hidden = [...table.tBodies[0].rows].some((row) => !row.hidden);
      status.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };

    text.addEventListener("input", apply);
    for (const select of selects) select.addEventListener("change", apply);
    document.getElementById("filter-reset").addEventListener("click", () => {
      text.value = "";
      for (const select of selects) select.value = "";
      apply();
      text.focus();
    });
    bar.hidden = false;
    apply(); // a browser may have kept what was typed before a reload
  }

  document.addEventListener("DOMContentLoaded", () => {
    setUpTheme();
    for (const table of document.querySelectorAll("table[data-sortable]")) setUpSorting(table);
    setUpFilters([...document.querySelectorAll("table[data-filterable]")]);
  });
})();
