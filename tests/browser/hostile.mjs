// Whatever producers, receivers and links contain is shown as text and never executed.

import { appliance, assert, receiver, same, visitor } from "./scene.mjs";

const RUN = "window.executed=(window.executed||0)+1";

export const PAYLOADS = [
  `<script>${RUN}</script>`,
  `</script><script>${RUN}</script>`,
  `<img src=x onerror="${RUN}">`,
  `<svg onload="${RUN}">`,
  `<svg><script>${RUN}</script></svg>`,
  `"><script>${RUN}</script>`,
  `'><script>${RUN}</script>`,
  `" autofocus onfocus="${RUN}" x="`,
  `' autofocus onfocus='${RUN}' x='`,
  `</pre><script>${RUN}</script><pre>`,
  `</textarea><script>${RUN}</script>`,
  `</title><script>${RUN}</script>`,
  `</code></td></tr></table><img src=x onerror=${RUN}>`,
  `--><script>${RUN}</script><!--`,
  `<!--<img src="--><img src=x onerror=${RUN}//">`,
  `]]><script>${RUN}</script>`,
  `<iframe srcdoc="<script>parent.executed=1</script>">`,
  `<iframe src="javascript:parent.executed=1">`,
  `<a href="javascript:${RUN}">click</a>`,
  `javascript:${RUN}`,
  `data:text/html,<script>${RUN}</script>`,
  `<object data="javascript:${RUN}">`,
  `<embed src="javascript:${RUN}">`,
  `<form action="javascript:${RUN}"><button>go</button></form>`,
  `<input onfocus="${RUN}" autofocus>`,
  `<details open ontoggle="${RUN}">x</details>`,
  `<video><source onerror="${RUN}"></video>`,
  `<body onload="${RUN}">`,
  `<style>@import 'javascript:${RUN}';</style>`,
  `<style>*{background:url("http://evil.example/steal")}</style>`,
  `<link rel=stylesheet href="http://evil.example/x.css">`,
  `<meta http-equiv="refresh" content="0;url=javascript:${RUN}">`,
  `<base href="http://evil.example/">`,
  `<math><mtext></mtext><mglyph><style><img src=x onerror=${RUN}></style>`,
  `<noscript><p title="</noscript><img src=x onerror=${RUN}>">`,
  `<template><script>${RUN}</script></template>`,
  `{{constructor.constructor('${RUN}')()}}`,
  `\${${RUN}}`,
  `&lt;script&gt;${RUN}&lt;/script&gt;`,
  `&#x3c;script&#x3e;${RUN}&#x3c;/script&#x3e;`,
  `\u202e<script>${RUN}</script>\u202c`,
  `<ſcript>${RUN}</ſcript>`,
  `<xss style="animation-name:x" onanimationstart="${RUN}">`,
  `+ADw-script+AD4-${RUN}+ADw-/script+AD4-`,
];

async function everywhere(browser) {
  const target = await receiver(({ body }) => {
    const text = JSON.parse(body).id;
    const value = text.replace(/[^\x20-\x7e]/g, "?");
    return { status: 500, headers: { "x-hostile": value, "content-type": "text/html" }, body: text };
  });
  // Each event is tried, however many have failed before it.
  const app = await appliance({ DELIVERY__BREAKER_FAILURES: "0" });
  const guest = await visitor(browser, app);
  const { page } = guest;
  const check = async (where, text) => {
    await page.waitForLoadState("load");
    same(await page.evaluate(() => window.executed), 0, `${where} executed ${text}`);
    const strange = await page.evaluate(
      () => document.querySelectorAll("main script, main img, main iframe, main object, main embed, main base, main video, main style, main [onerror], main [onload], main [onfocus], main a[href^=javascript]").length,
    );
    same(strange, 0, `${where} has markup of ${text}`);
  };
  try {
    await app.api("PUT", "/config", { url: target.url });
    const ids = [];
    for (const text of PAYLOADS) {
      // Resource ids have at most 255 bytes, as all of these do.
      ids.push((await app.submit("card_state", { id: text, nested: { [text]: [text] } })).id);
      await target.wait(ids.length);
    }
    await guest.enter();
    await page.goto(`${app.home}/events`);
    await check("the log", "any");
    const shown = await page.locator("td.resource").allTextContents();
    for (const text of PAYLOADS) assert(shown.includes(text.trim()) || shown.includes(text), `the log shows ${text}`);
    for (const [i, id] of ids.entries()) {
      const text = PAYLOADS[i];
      await app.status(id, "retrying");
      await page.goto(`${app.home}/events/${id}`);
      await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
      await check("an event", text);
      const exact = await page.locator("#payload").textContent();
      same(JSON.parse(exact).id, text, "the payload is shown to the byte");
      assert((await page.locator(".attempt pre").first().textContent()).includes(text), `the answer shows ${text}`);
    }
    guest.expect(400, 404, 422);
    for (const text of PAYLOADS) {
      const part = encodeURIComponent(text);
      await page.goto(`${app.home}/events?status=${part}&event_type=${part}&resource_id=${part}&from=${part}&cursor=${part}`);
      await check("a link", text);
      same(await page.inputValue("#resource_id"), text.trim(), "the filter shows it");
      await page.goto(`${app.home}/events/${part}`);
      await check("a path", text);
      await page.goto(`${app.home}?done=${part}`);
      await check("a notice", text);
      await page.fill("#url", text);
      await page.fill("#secret", text);
      await page.click("button:has-text('Generate')");
      await check("a form", text);
      same(await page.inputValue("#url"), text.trim(), "the field shows it");
      await page.goto(`${app.home}/tools`);
      await page.fill("#body", text);
      await page.fill("#given", text);
      await page.fill("#which", text);
      await page.click("button:has-text('Check')");
      await check("the debugger", text);
      same(await page.inputValue("#body"), text, "the debugger shows it");
    }
    await guest.close();
  } finally {
    target.stop();
    await app.stop();
  }
  return `${PAYLOADS.length} payloads in bodies, answers, headers, links and forms, 0 executed`;
}

export const tests = [["hostile text is shown and never executed", everywhere]];
