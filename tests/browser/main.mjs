// Runs every test of this directory, one after the other, and says how each went.

import { launch } from "./scene.mjs";
import { tests as flows } from "./flows.mjs";
import { tests as hostile } from "./hostile.mjs";
import { tests as looks } from "./looks.mjs";
import { tests as receivers } from "./receivers.mjs";

const wanted = process.argv[2] ?? "";
const browser = await launch();
let failed = 0;
for (const [name, test] of [...flows, ...hostile, ...looks, ...receivers].filter(([name]) => name.includes(wanted))) {
  const began = performance.now();
  try {
    const said = await test(browser);
    console.log(`ok      ${name}${said ? ` (${said})` : ""}, ${Math.round(performance.now() - began)} ms`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${String(error.stack ?? error).replace(/^/gm, "        ")}`);
  }
}
await browser.close();
process.exit(failed ? 1 : 0);
