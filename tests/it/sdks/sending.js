// What the scripts of this folder have in common: NAME.js URL KEY. Each sends every kind of call that its client has,
// says `ready`, and sends numbered ones until it reads a line; then it has its client deliver all of them, says how many
// there were, and ends when its standard input does.
//
// Each has a clock that is two hours late, which its client does not know.

const BEHIND_MS = 2 * 3600 * 1000;
const BETWEEN_MS = 20;
const RealDate = Date;

class LateDate extends RealDate {
  constructor(...given) {
    if (given.length === 0) super(LateDate.now());
    else super(...given);
  }

  static now() {
    return RealDate.now() - BEHIND_MS;
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function run({ first, numbered, finish }) {
  const enough = new Promise((resolve) => process.stdin.once('data', resolve));
  const end = new Promise((resolve) => process.stdin.once('end', resolve));
  let more = true;
  enough.then(() => (more = false));
  await first();
  console.log('ready');
  let count = 0;
  while (more) {
    await numbered(count++);
    await pause(BETWEEN_MS);
  }
  await finish();
  console.log(count);
  await end;
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

exports.BEHIND_MS = BEHIND_MS;
exports.LateDate = LateDate;
exports.pause = pause;
exports.run = (steps) => run(steps).then(() => process.exit(0), fail);
