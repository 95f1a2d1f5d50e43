// Adds to plain pages: a theme, updates that pause, keys. All actions work without it.
"use strict";
(() => {
  const root = document.documentElement;
  const stored = {
    get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* the browser keeps nothing */ } },
  };
  const theme = stored.get("redisjobs-theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.classList.add("scripted");

  const LOGGED_OUT = "You are no longer logged in. Reload the page.";
  let asked = false; // the viewer paused the updates
  let away = false;
  const tags = new Map(); // the ETag of each address, so that an unchanged fragment is not sent again

  document.addEventListener("DOMContentLoaded", () => {
    const live = document.getElementById("live");
    const pace = document.getElementById("pace");
    const banner = document.getElementById("banner");

    for (const current of document.querySelectorAll(".top nav [aria-current]")) {
      const bar = current.parentElement; // on a phone it is longer than the screen
      bar.scrollLeft = current.offsetLeft + current.offsetWidth - bar.offsetLeft - bar.clientWidth + 40;
    }

    // Updates pause while they would disturb: hidden, asked, selecting, typing, or focus inside.
    const chosen = () => live.querySelector('input[type="checkbox"]:checked') !== null;
    const selecting = () => {
      const selection = getSelection();
      return selection && !selection.isCollapsed && live.contains(selection.anchorNode);
    };
    const edited = () => [...live.querySelectorAll('input:not([type="hidden"], [type="checkbox"]), textarea, select')].some((field) =>
      field.tagName === "SELECT" ? [...field.options].some((option) => option.selected !== option.defaultSelected && field.selectedIndex > 0) : field.value !== field.defaultValue);
    const focused = () => document.activeElement !== live && live.contains(document.activeElement);
    const opened = () => live.querySelector("details[open]") !== null;
    const resting = () => asked || document.hidden || chosen() || selecting() || edited() || focused() || opened();
    const show = () => {
      if (!pace) return;
      const paused = resting();
      pace.dataset.pace = away ? "away" : paused ? "paused" : "live";
      pace.querySelector(".said").textContent = away ? "no answer" : paused ? "paused" : "live, 2 s";
      pace.title = asked ? "Updates are paused. Click to go on" : paused ? "Updates pause while you select, type or focus here" : "Click to pause updates";
    };
    const tell = (text) => {
      away = text !== "";
      banner.textContent = text;
      banner.hidden = !away;
      show();
    };

    if (pace) {
      pace.setAttribute("role", "button");
      pace.addEventListener("click", (event) => { event.preventDefault(); asked = !asked; show(); });
      for (const kind of ["focusin", "focusout", "change", "input", "selectionchange", "visibilitychange", "toggle"]) {
        document.addEventListener(kind, () => setTimeout(show), true);
      }
      show();
    }
    document.body.addEventListener("htmx:beforeRequest", (event) => {
      if (event.detail.elt === live && resting()) event.preventDefault();
    });
    document.body.addEventListener("htmx:configRequest", (event) => {
      const tag = tags.get(event.detail.path);
      if (tag) event.detail.headers["If-None-Match"] = tag;
    });
    document.body.addEventListener("htmx:beforeSwap", (event) => {
      const answer = event.detail.xhr;
      // The application sent the page on, to its login: that must not be shown inside of this page.
      if (new URL(answer.responseURL).pathname !== new URL(event.detail.pathInfo.requestPath, location.href).pathname) {
        event.detail.shouldSwap = false;
        tell(LOGGED_OUT);
        return;
      }
      // What began while the answer was on its way must not be disturbed either.
      if (answer.status === 304 || resting()) { event.detail.shouldSwap = false; event.detail.isError = false; }
      else if (answer.status === 200) tags.set(event.detail.pathInfo.requestPath, answer.getResponseHeader("ETag"));
      if (answer.status < 400) tell("");
    });
    document.body.addEventListener("htmx:responseError", (event) => {
      const status = event.detail.xhr.status;
      tell(status === 503 ? "Redis does not answer. What you see is from before; the page tries again."
        : status === 401 || status === 403 ? LOGGED_OUT
        : `The page's server answered with an error (${status}). What you see is from before; the page tries again.`);
    });
    for (const kind of ["htmx:sendError", "htmx:timeout"]) {
      document.body.addEventListener(kind, () => tell("The page's server does not answer. What you see is from before; the page tries again."));
    }

    // The second click of a double click must not send a form again: it may push another job.
    let sent = -Infinity;
    document.addEventListener("submit", (event) => {
      if (event.target.method !== "post") return;
      if (event.timeStamp - sent < 3000) event.preventDefault();
      else sent = event.timeStamp;
    });
    // A reload must not say again what an act has done.
    if (/[?&]did=/.test(location.search)) history.replaceState(null, "", location.pathname + location.search.replace(/[?&]did=.*$/, ""));

    document.getElementById("theme").addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      stored.set("redisjobs-theme", root.dataset.theme);
    });
    const keys = document.getElementById("keys");
    document.getElementById("help").addEventListener("click", () => keys.showModal());

    const boxes = () => [...live.querySelectorAll('td.pick input[type="checkbox"]')];
    document.addEventListener("change", (event) => {
      if (event.target.id === "all") boxes().forEach((box) => { box.checked = event.target.checked; });
      show();
    });

    // Keys
    let going = 0;
    const move = (by) => {
      const rows = [...live.querySelectorAll("tbody tr.row .to")];
      if (!rows.length) return;
      const at = rows.findIndex((row) => row === document.activeElement || row.closest("tr").contains(document.activeElement));
      rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)].focus();
    };
    const acts = {
      j: () => move(1),
      k: () => move(-1),
      "/": () => document.getElementById("search")?.focus(),
      p: () => pace?.click(),
      "?": () => keys.showModal(),
      x: () => {
        const box = document.activeElement.closest("tr")?.querySelector("td.pick input");
        if (box) { box.checked = !box.checked; show(); }
      },
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) && document.activeElement.type !== "checkbox";
      if (event.key === "Escape") {
        document.activeElement.blur();
        boxes().forEach((box) => { box.checked = false; });
        const all = document.getElementById("all");
        if (all) all.checked = false;
        show();
        return;
      }
      if (typing) return;
      if (Date.now() - going < 1200) {
        going = 0;
        const link = document.querySelector(`.top nav a[data-go="${CSS.escape(event.key)}"]`);
        if (link) { event.preventDefault(); link.click(); return; }
      }
      if (event.key === "g") { going = Date.now(); return; }
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
  });
})();
