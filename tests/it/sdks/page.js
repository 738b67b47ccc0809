// What browsers let a page of another origin send, without any library: page.js URL KEY PORT, the last of which is that
// of the pages. Says what came of it as JSON, and ends when its standard input does.

const { launch, serve } = require('./chromium.js');

const [url, key, port] = process.argv.slice(2);

// In a page, before all else.
function prepare([url, key]) {
  const message = (number) =>
    JSON.stringify({ writeKey: key, type: 'track', event: 'Beacon', userId: 'u', properties: { number } });
  const event = (number) =>
    JSON.stringify({ event: { deviceId: 'd', customEvent: { eventName: 'page', intParams: { number } } } });
  window.beacon = (number) => navigator.sendBeacon(`${url}/v1/t`, message(number));
  // The status, and whether the page may read which request it was.
  window.post = async (number, options) => {
    const headers = { 'Content-Type': 'application/json', 'X-API-Key': key };
    try {
      const reply = await fetch(`${url}/v1/events/ingest`, { method: 'POST', headers, body: event(number), ...options });
      return [reply.status, reply.headers.get('X-Request-ID') !== null];
    } catch (error) {
      return error.message;
    }
  };
}

async function open(browser, host) {
  const page = await (await browser.newContext()).newPage();
  await page.addInitScript(prepare, [url, key]);
  await page.goto(`http://${host}:${port}/`);
  return page;
}

async function main() {
  await serve(port);
  const browser = await launch();
  const page = await open(browser, 'localhost');
  const results = {
    simple: await page.evaluate(() => post(1, {})),
    credentials: await page.evaluate(() => post(2, { credentials: 'include' })),
    keepalive: await page.evaluate(() => post(3, { keepalive: true })),
    beacon: await page.evaluate(() => beacon(4)),
  };
  // While it goes away.
  await page.evaluate(() => {
    addEventListener('pagehide', () => {
      post(5, { keepalive: true });
      beacon(6);
    });
    location.href = '/gone';
  });
  await page.waitForURL('**/gone');

  // A page that the gateway was not told of.
  const other = await open(browser, '127.0.0.1');
  results.refused = await other.evaluate(() => post(7, {}));
  await other.evaluate(() => beacon(8));
  console.log(JSON.stringify(results));
  process.stdin.resume().once('end', () => process.exit(0));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
