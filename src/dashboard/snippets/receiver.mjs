import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.WEBHOOK_SECRET;

function isOurs(body, signature) {
  const expected = createHmac("sha256", secret).update(body).digest();
  const given = Buffer.from(signature ?? "", "hex");
  return given.length === expected.length && timingSafeEqual(given, expected);
}

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks); // the raw bytes, before any parsing
    if (!isOurs(body, request.headers["x-webhook-signature"])) {
      response.writeHead(401).end();
      return;
    }
    const event = JSON.parse(body);
    // Store it by request.headers["webhook-id"], which is the same in every attempt. Work on it afterwards.
    console.log(request.headers["x-webhook-event"], event.id);
    response.writeHead(204).end();
  });
}).listen(process.env.PORT ?? 8000);
