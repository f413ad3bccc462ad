// Clients that behave: each order has an idempotency key, is sent until it was accepted, and is followed to its end.
import { setTimeout as pause } from 'node:timers/promises'
import { between, type Random } from './random.ts'
import type { Stage } from './stage.ts'

/** What a client knows about one order. */
export type Order = {
  readonly key: string
  readonly synchronous: boolean
  /** HTTP status of the answer in the end; null as long as there was none. */
  status: number | null
  /** Whether the client asked for its cancellation. */
  cancelled: boolean
  /** Times that it was sent. */
  sent: number
}

const sizes = [
  [640, 1536],
  [1024, 1024],
  [1344, 768],
] as const
const samplers = ['DDIM', 'K_EULER', 'DPM_SOLVER_MULTISTEP', 'K_EULER_ANCESTRAL']
/** A PNG of one grey pixel, to start from. */
const pixel = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=='
const answerWithinMs = 60_000

/** Send orders from `count` clients at once until `stop` is aborted, and follow what was sent to its end. */
export async function runClients(
  stage: Stage,
  count: number,
  randomOf: (client: number) => Random,
  stop: AbortSignal,
): Promise<readonly Order[]> {
  const orders: Order[] = []
  const client = async (number: number): Promise<void> => {
    const random = randomOf(number)
    for (let index = 0; !stop.aborted; index++) {
      const order = {
        key: `${number}-${index}`,
        synchronous: random() < 0.25,
        status: null,
        cancelled: false,
        sent: 0,
      }
      orders.push(order)
      await carryOut(stage, order, bodyOf(random), random)
    }
  }
  await Promise.all(Array.from({ length: count }, (_, number) => client(number)))
  return orders
}

function bodyOf(random: Random): string {
  const [width, height] = sizes[between(random, 0, sizes.length - 1)]
  const fromPicture = random() < 0.3
  return JSON.stringify({
    prompt: 'a lighthouse at dusk',
    width,
    height,
    steps: between(random, 2, 8),
    sampler: samplers[between(random, 0, samplers.length - 1)],
    seed: between(random, 0, 1e9),
    num_images: between(random, 1, 2),
    use_refiner: false,
    ...(fromPicture && { init_image: pixel, strength: 0.9 }),
  })
}

async function carryOut(stage: Stage, order: Order, body: string, random: Random): Promise<void> {
  const headers = {
    'content-type': 'application/json',
    'idempotency-key': order.key,
    ...(!order.synchronous && { 'x-octoai-async': '1' }),
  }
  const accepted = await insist(stage, random, '/generate/sdxl', () => {
    order.sent++
    return { method: 'POST', headers, body }
  })
  if (order.synchronous) {
    order.status = accepted.status
    await check(accepted)
    return
  }
  if (accepted.status !== 201) throw new Error(`an order was refused: ${accepted.status} ${await accepted.text()}`)
  const { response_id: id } = (await accepted.json()) as { response_id: string }
  if (random() < 0.1) {
    await pause(random() * 1500)
    order.cancelled = true
    await (await insist(stage, random, `/v1/requests/${id}`, () => ({ method: 'DELETE' }))).arrayBuffer()
  }
  for (;;) {
    const poll = await insist(stage, random, `/v1/requests/${id}`, () => ({}))
    const { status, progress } = (await poll.json()) as { status: string; progress: { step: number; of: number } }
    if (progress.step > progress.of) throw new Error(`${id} is at step ${progress.step} of ${progress.of}`)
    if (status === 'completed') break
    await pause(150)
  }
  const answer = await insist(stage, random, `/v1/responses/${id}`, () => ({}))
  order.status = answer.status
  await check(answer)
}

/** Repeat a call until it gets an answer that is not the fault of a dead process. */
async function insist(stage: Stage, random: Random, path: string, init: () => RequestInit): Promise<Response> {
  for (;;) {
    const url = stage.urls[between(random, 0, stage.urls.length - 1)]
    try {
      const { headers, ...rest } = init()
      const response = await fetch(url + path, {
        ...rest,
        headers: { ...(headers as Record<string, string>), authorization: `Bearer ${stage.token}` },
        signal: AbortSignal.timeout(answerWithinMs),
      })
      // The body may be cut off as well, so it is read here.
      const bytes = await response.arrayBuffer()
      if (response.status < 500) return new Response(bytes, { status: response.status, headers: response.headers })
    } catch (error) {
      const isNetwork = error instanceof TypeError || (error instanceof DOMException && error.name === 'TimeoutError')
      if (!isNetwork) throw error
    }
    await pause(between(random, 50, 150))
  }
}

/** A success has pictures. */
async function check(answer: Response): Promise<void> {
  if (answer.status !== 200) return
  const { images } = (await answer.json()) as { images: { image_b64: string }[] }
  if (images.length === 0) throw new Error('a success without pictures')
  for (const { image_b64: text } of images) {
    const [first, second] = Buffer.from(text.slice(0, 8), 'base64')
    if (first !== 0xff || second !== 0xd8) throw new Error('a picture is no JPEG')
  }
}
