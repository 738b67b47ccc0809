// A browser, and the pages that it shows.
//
// CHROMIUM names its program. Otherwise it is looked for where packages put it; playwright-core knows where
// `npx playwright-core install` does.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');

const PLACES = [
  process.env.CHROMIUM,
  '/usr/bin/chromium-headless-shell',
  '/usr/bin/chromium',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];
// It is to ask nobody but the test. Root has no sandbox.
const SWITCHES = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
const PAGE = `<!doctype html><title>Shop</title>
<script>window.analytics = { _cdn: location.origin }</script><script src="/index.js"></script>`;

exports.launch = () => {
  const executablePath = PLACES.find((place) => place && fs.existsSync(place));
  return chromium.launch({ executablePath, args: SWITCHES });
};

// Serves pages that have `@segment/analytics-next`, and the parts of it that it loads when it needs them.
exports.serve = (port) => {
  const library = path.dirname(require.resolve('@segment/analytics-next/dist/umd/index.js'));
  const server = http.createServer((request, response) => {
    const script = path.join(library, path.basename(new URL(request.url, 'http://localhost').pathname));
    const isScript = script.endsWith('.js') && fs.existsSync(script);
    response.writeHead(200, { 'content-type': isScript ? 'text/javascript' : 'text/html' });
    response.end(isScript ? fs.readFileSync(script) : PAGE);
  });
  return new Promise((listening) => server.listen(Number(port), listening));
};
