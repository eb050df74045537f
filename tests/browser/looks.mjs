// How the pages are: accessible in both schemes and at every width, small, and silent towards the rest of the world.

import { mkdirSync } from "node:fs";

import { appliance, assert, axe, eventually, receiver, visitor } from "./scene.mjs";

const FIRST_LOAD_BYTES_MAX = 60 * 1024;

// A merchant whose pages are full: delivered, failing and waiting events, a replaced secret.
async function full() {
  const app = await appliance({ DELIVERY__RETRY_SCHEDULE: "100ms,1h", DELIVERY__RETRY_JITTER: "0" });
  const target = await receiver(({ body }, number) => {
    const bad = body.includes("declined");
    return { status: bad ? 503 : 200, headers: { "content-type": "text/plain" }, body: bad ? "upstream unavailable" : "ok" };
  });
  await app.api("PUT", "/config", { url: target.url, secret: "the one before this one" });
  await app.api("PUT", "/config", { url: target.url, secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" });
  const kinds = ["card_transaction", "account_transaction", "account_topup", "card_state"];
  let last;
  for (let i = 0; i < 24; i += 1) {
    const status = i % 7 === 3 ? "declined" : "confirmed";
    const data = { id: `txn_8f2c${i}d41`, card_id: "card_5540a1", status, amount: "24.90", currency: "EUR", merchant: { name: "Café Zoë", city: "Lisbon" } };
    const { id } = await app.submit(kinds[i % 4], data);
    if (status === "declined") last = id;
  }
  await eventually("the second attempt", async () => (await app.api("GET", `/events/${last}`)).attempt_count === 2);
  const pages = {
    webhook: app.home,
    events: `${app.home}/events`,
    filtered: `${app.home}/events?status=failed&resource_id=none`,
    event: `${app.home}/events/${last}`,
    tools: `${app.home}/tools`,
    recover: `${app.home}/recover?from=2020-01-01T00:00&to=2100-01-01T00:00&status=failed&status=skipped`,
    delete: `${app.home}/delete`,
  };
  return { app, pages, stop: async () => { target.stop(); await app.stop(); } };
}

async function accessible(browser) {
  const { app, pages, stop } = await full();
  const found = [];
  let looked = 0;
  const judge = async (page, name, dark, width) => {
    looked += 1;
    found.push(...(await faults(page)).map((fault) => `${name}, ${dark ? "dark" : "light"}, ${width} px: ${fault}`));
  };
  try {
    for (const dark of [false, true]) {
      for (const width of [360, 1600]) {
        const guest = await visitor(browser, app, { dark, width });
        await guest.context.addInitScript({ path: axe });
        await guest.page.goto(`${app.ready.public}/sign-in?why=link`);
        await judge(guest.page, "sign-in", dark, width);
        await guest.enter();
        for (const [name, url] of Object.entries(pages)) {
          await guest.page.goto(url);
          await guest.page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
          await judge(guest.page, name, dark, width);
        }
        guest.expect(404, 422);
        await guest.page.goto(`${app.home}/events/nothing`);
        await judge(guest.page, "sorry", dark, width);
        await guest.page.goto(app.home);
        await guest.page.fill("#url", "nothing");
        await guest.page.click("button:has-text('Save')");
        await judge(guest.page, "refused form", dark, width);
        await guest.close();
      }
    }
  } finally {
    await stop();
  }
  assert(found.length === 0, found.join("\n"));
  return `${looked} looks, 0 violations`;
}

async function faults(page) {
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const words = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`);
  const wide = await page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
  return wide > 0 ? [...words, `${wide} px wider than the window`] : words;
}

async function small(browser) {
  const { app, pages, stop } = await full();
  const said = [];
  try {
    for (const name of ["webhook", "events", "event", "tools"]) {
      const guest = await visitor(browser, app);
      const session = await guest.context.newCDPSession(guest.page);
      await guest.enter();
      await session.send("Network.enable");
      await session.send("Network.clearBrowserCache");
      let bytes = 0;
      session.on("Network.loadingFinished", (event) => { bytes += event.encodedDataLength; });
      await guest.page.goto(pages[name], { waitUntil: "load" });
      await eventually("the last byte", () => bytes > 10_000);
      assert(bytes < FIRST_LOAD_BYTES_MAX, `${name}: ${bytes} bytes`);
      said.push(`${name} ${(bytes / 1024).toFixed(1)} KiB`);
      await guest.close();
    }
  } finally {
    await stop();
  }
  return said.join(", ");
}

async function pictures(browser) {
  const directory = process.env.SCREENSHOTS;
  if (!directory) return "none asked for";
  mkdirSync(directory, { recursive: true });
  const { app, pages, stop } = await full();
  try {
    for (const dark of [false, true]) {
      for (const width of [360, 1600]) {
        const guest = await visitor(browser, app, { dark, width });
        await guest.enter();
        for (const [name, url] of Object.entries(pages)) {
          await guest.page.goto(url);
          await guest.page.screenshot({ path: `${directory}/${name}-${dark ? "dark" : "light"}-${width}.png`, fullPage: true });
        }
        await guest.close();
      }
    }
  } finally {
    await stop();
  }
  return directory;
}

export const tests = [
  ["every page is accessible in both schemes at both widths", accessible],
  ["the first load is small and comes from nowhere else", small],
  ["pictures", pictures],
];
