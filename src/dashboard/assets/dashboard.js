// What a script adds to pages that work without one: copying, boxes that follow each other, news of open pages.
// Never builds markup from text, never changes anything without a form.

for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.querySelector(button.dataset.copy);
  if (!source || !navigator.clipboard) continue;
  const word = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = word; }, 1500);
  });
}

const every = document.querySelector("[data-every]");
if (every) {
  const types = document.querySelector(".types");
  const boxes = [...types.querySelectorAll("input")];
  const follow = () => types.classList.toggle("idle", every.checked);
  every.addEventListener("change", () => {
    if (every.checked) boxes.forEach((box) => { box.checked = false; });
    follow();
  });
  types.addEventListener("change", () => {
    if (boxes.some((box) => box.checked)) every.checked = false;
    follow();
  });
  follow();
}

// News: shown rows change where they stand, new ones are announced and come when they are asked for, so that
// nothing moves under a pointer.
const news = document.querySelector("[data-live]");
if (news) {
  let fresh = 0;
  let stream = null;

  const announce = (text, target) => {
    const link = news.querySelector("a") ?? news.appendChild(document.createElement("a"));
    link.href = target;
    if (link.textContent !== text) link.textContent = text;
    news.hidden = false;
  };

  const put = (cell, text, tag) => {
    const part = cell.appendChild(document.createElement(tag));
    part.textContent = text;
    return part;
  };

  const change = (row) => {
    const line = document.querySelector(`tr[data-event="${CSS.escape(row.id)}"]`);
    if (!line) return;
    const [status, , , , answer, attempts, next] = line.cells;
    const badge = status.firstElementChild;
    badge.className = `badge ${row.status}`;
    badge.textContent = row.status_word;
    badge.title = row.status_meaning;
    answer.replaceChildren();
    next.replaceChildren();
    if (row.answer) {
      put(answer, row.answer, "code");
      answer.append(" ");
      put(answer, row.took, "span").className = "took";
    } else {
      put(answer, "–", "span").className = "none";
    }
    attempts.textContent = row.attempts;
    if (row.next) next.textContent = row.next;
    else put(next, "–", "span").className = "none";
  };

  const hear = (message) => {
    const told = JSON.parse(message.data);
    if (news.dataset.watch) {
      if (told.missed || told.rows.some((row) => row.id === news.dataset.watch)) {
        announce("This event changed. Show it as it is now", location.pathname);
      }
      return;
    }
    told.rows.forEach(change);
    fresh += told.fresh;
    if (!news.dataset.top) return;
    if (told.missed) announce("Many events came. Show the newest", news.dataset.top);
    else if (fresh) announce(fresh === 1 ? "1 new event. Show it" : `${fresh} new events. Show them`, news.dataset.top);
  };

  const listen = () => {
    stream = new EventSource(news.dataset.live);
    stream.addEventListener("news", hear);
  };

  // A hidden page holds no connection: browsers have few for one host.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
    } else if (!stream) {
      listen();
    }
  });
  addEventListener("pagehide", () => stream?.close());
  if (!document.hidden) listen();
}
