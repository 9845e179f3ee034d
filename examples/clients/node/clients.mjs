// What the examples for Node.js have in common: retries, and how a result is printed.
export const GREATEST = '9223372036854775807';

// What passes by itself: see ../psycopg/example.py.
const PASSES = new Set(['40001', '40P01', '55P03', '58000', '25006', '57P01', '57P02', '57P03']);
const LOST = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT']);

// The SQLSTATE, which Drizzle keeps in the error's cause, and Prisma in that of its driver.
function codeOf(error) {
  return error.meta?.driverAdapterError?.cause?.originalCode ?? error.cause?.code ?? error.code;
}

// A whole transaction, and again where what has stopped it passes by itself.
export async function withRetries(work, attempts = 10) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      const code = codeOf(error);
      const lost = LOST.has(code) || /Connection terminated/.test((error.cause ?? error).message);
      if (!(lost || PASSES.has(code)) || attempt === attempts - 1) throw error;
      console.log(JSON.stringify({ retry: code }));
    }
    await new Promise((done) => setTimeout(done, Math.min(100 * 2 ** attempt, 5000)));
  }
}
