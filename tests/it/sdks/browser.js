// `@segment/analytics-next` in pages of another origin than the gateway; see sending.js:
// browser.js URL KEY PORT, the last of which is that of the pages.
//
// One page has it send a request a call, one has it send batches. At the end each makes a last call and goes away.

const { BEHIND_MS, pause, run } = require('./sending.js');
const { launch, serve } = require('./chromium.js');

const [url, writeKey, port] = process.argv.slice(2);
const strategies = {
  'analytics-next': {},
  'analytics-next-batching': { deliveryStrategy: { strategy: 'batching', config: { size: 10, timeout: 200 } } },
};
const pages = [];
let browser;

// In a page, whose clock is late as well.
function behind(ms) {
  const RealDate = Date;
  window.Date = class extends RealDate {
    constructor(...given) {
      if (given.length === 0) super(RealDate.now() - ms);
      else super(...given);
    }

    static now() {
      return RealDate.now() - ms;
    }
  };
}

// In a page.
async function load([url, writeKey, segment]) {
  const settings = { writeKey, cdnURL: url };
  const [analytics] = await AnalyticsNext.AnalyticsBrowser.load(settings, { integrations: { 'Segment.io': segment } });
  window.client = analytics;
}

// In a page: every kind of call.
async function calls(userId) {
  await client.identify(userId, { email: 'é@example.com' });
  await client.track('Order Completed', { order_id: 'o', total: 9.99 });
  await client.page('docs', 'Intro', { path: '/docs' });
  await client.screen('main', 'Home');
  await client.group('g', { name: 'Acme' });
  await client.alias(userId, 'old');
}

// The numbers that a request of a page holds.
function numbers(request) {
  const message = JSON.parse(request.postData() ?? '{}');
  return (message.batch ?? [message]).flatMap(({ properties }) => properties?.number ?? []);
}

async function open([userId, segment]) {
  // A context of its own, since the pages of an origin share their storage.
  const context = await browser.newContext();
  const page = await context.newPage();
  const delivered = new Set();
  page.on('request', (request) => {
    const asked = new URL(request.url());
    if (asked.origin !== url && asked.port !== port) throw new Error(`nobody else is to be asked: ${request.url()}`);
  });
  page.on('response', (response) => {
    const isPost = response.request().method() === 'POST';
    if (isPost && response.ok()) numbers(response.request()).forEach((number) => delivered.add(number));
  });
  await page.addInitScript(behind, BEHIND_MS);
  await page.goto(`http://localhost:${port}/`);
  await page.evaluate(load, [url, writeKey, segment]);
  await page.evaluate(calls, userId);
  pages.push({ page, segment, delivered });
}

run({
  first: async () => {
    await serve(port);
    browser = await launch();
    await Promise.all(Object.entries(strategies).map(open));
  },
  numbered: async (number) => {
    const track = (number) => void client.track('Counted', { number });
    await Promise.all(pages.map(({ page }) => page.evaluate(track, number)));
    pages.count = number + 1;
  },
  finish: async () => {
    while (pages.some(({ delivered }) => delivered.size < pages.count)) await pause(50);
    const leave = () => {
      client.track('Leaving');
      location.href = '/gone';
    };
    for (const { page, segment } of pages) {
      await page.evaluate(leave);
      await page.waitForURL('**/gone');
      // What did not get away in time is in the page's storage.
      await page.evaluate(load, [url, writeKey, segment]);
    }
  },
});
