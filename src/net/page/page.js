// Keeps the page fresh: asks for it again every few seconds and exchanges the parts that differ. What its reader has
// opened, chosen or typed stays. The page is whole without it.
"use strict";
(() => {
    const every = 3000;
    const get = (id) => document.getElementById(id);
    const [tools, filter, span, pause, live] = ["tools", "filter", "span", "pause", "live"].map(get);
    let timer;
    const paused = () => pause.getAttribute("aria-pressed") === "true";

    // What the reader has chosen, laid over a document.
    const dress = (root) => {
        const word = filter.value.trim().toLowerCase();
        for (const one of root.querySelectorAll("[data-server]")) {
            one.hidden = !one.dataset.server.toLowerCase().includes(word);
        }
        const short = span.getAttribute("aria-pressed") === "true";
        for (const svg of root.querySelectorAll("svg")) {
            svg.setAttribute("viewBox", short ? "450 0 150 100" : "0 0 600 100");
        }
        for (const from of root.querySelectorAll(".axis .from")) {
            from.textContent = short ? "15 min ago" : "60 min ago";
        }
    };

    // Times of the reader's own clock, beside UTC.
    const local = (root) => {
        for (const time of root.querySelectorAll("time[datetime]")) {
            const at = new Date(time.dateTime);
            if (isNaN(at)) continue;
            time.title = `${at.toLocaleString()} here`;
            const beside = time.parentElement.querySelector(".local");
            if (beside) beside.textContent = ` (${at.toLocaleTimeString()} here)`;
        }
    };

    // Takes over what is new, part by part, so that nothing moves that is the same.
    const exchange = (now, next) => {
        if (now.isEqualNode(next)) return;
        const lists = [...now.querySelectorAll(".lines")].map((list) => list.scrollTop);
        const focus = document.activeElement;
        const summary = now.contains(focus) && focus.tagName === "SUMMARY" ? focus.parentElement.id : null;
        now.replaceWith(next);
        next.querySelectorAll(".lines").forEach((list, n) => { list.scrollTop = lists[n] ?? 0; });
        if (summary) get(summary)?.querySelector("summary").focus();
    };

    const refresh = async () => {
        try {
            const answer = await fetch(location.pathname, { cache: "no-store" });
            if (!answer.ok) throw new Error(`status ${answer.status}`);
            const next = new DOMParser().parseFromString(await answer.text(), "text/html");
            if (paused()) return;
            for (const open of document.querySelectorAll("details[open]")) {
                next.getElementById(open.id)?.setAttribute("open", "");
            }
            dress(next);
            local(next);
            // A selection of the reader is kept.
            if (String(getSelection())) return;
            for (const part of [...document.querySelectorAll("#head, main > section")]) {
                const other = next.getElementById(part.id);
                if (other) exchange(part, document.adoptNode(other));
            }
            document.title = next.title;
            say(`live, every ${every / 1000} s`);
        } catch (why) {
            say(`not reachable since ${new Date().toLocaleTimeString()} (${why.message})`, true);
        }
    };

    const say = (text, lost = false) => {
        // The first time counts until it is reachable again.
        if (lost && live.classList.contains("lost")) return;
        live.classList.toggle("lost", lost);
        // What is shown is not true any more.
        document.body.classList.toggle("stale", lost);
        if (live.textContent !== text) live.textContent = text;
    };

    const plan = () => {
        clearTimeout(timer);
        if (paused()) return;
        timer = setTimeout(async () => {
            if (!document.hidden) await refresh();
            plan();
        }, every);
    };

    const toggle = (button) => {
        const pressed = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", pressed);
        return pressed;
    };

    filter.addEventListener("input", () => dress(document));
    span.addEventListener("click", () => { toggle(span); dress(document); });
    pause.addEventListener("click", () => {
        say(toggle(pause) ? "paused" : "live");
        plan();
    });
    // A name in the table opens what it leads to.
    const reveal = () => {
        const at = get(decodeURIComponent(location.hash.slice(1)));
        if (at?.tagName === "DETAILS") at.open = true;
    };
    addEventListener("hashchange", reveal);
    document.addEventListener("click", (event) => {
        if (event.target.closest?.("table.servers a, #reasons a")) setTimeout(reveal);
    });
    tools.hidden = false;
    dress(document);
    local(document);
    reveal();
    say(`live, every ${every / 1000} s`);
    plan();
})();
