// Compiled graphs of OpenVINO's as a session: what goes in and comes out without copies, one run at a time, cancelled at any
// moment.
import { elementCount, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { Feed, Session } from '../backend.ts'
import type { ModelOutput } from '../onnx/model-values.ts'
import { OpenvinoError, type Handle, type OpenvinoLibrary } from './openvino-library.ts'

/** One compiled graph of a session. */
export type Link = {
  readonly request: Handle<'request'>
  /** Names of what it takes. */
  readonly inputs: ReadonlySet<string>
  readonly outputs: readonly ModelOutput[]
  /** Whether it was cancelled. */
  readonly infer: () => Promise<boolean>
}

const noValues = new Float32Array(1)

/** A session that runs `links` one after the other; it takes over what they `own`, and frees it when it is closed. */
export function openSession(library: OpenvinoLibrary, links: readonly Link[], own: DisposableStack): Session {
  const answers = connect(library, links)
  const owned = own.move()
  let running: Promise<boolean> | null = null
  let current: Link | null = null
  let isCancelled = false
  let open = true

  const infer = async (): Promise<boolean> => {
    for (const link of links) {
      if (isCancelled) return true
      current = link
      if (await link.infer()) return true
    }
    return false
  }

  const run: Session['run'] = async (feeds) => {
    if (!open) throw new AppError('internal', 'session: used after close')
    if (running) throw new AppError('internal', 'session: runs are one at a time')
    using tensors = new DisposableStack()
    const bind = (name: string, { shape, data }: Feed, takers: readonly Link[]): void => {
      // The library wants a place even for no values: a LoRA of rank 0.
      const memory = data.length > 0 ? data : noValues
      const tensor = library.createTensor(data instanceof BigInt64Array ? 'i64' : 'f32', shape, memory)
      // The memory is held with it: nothing else may have a use for it while the library does.
      tensors.adopt({ tensor, memory }, (bound) => library.freeTensor(bound.tensor))
      for (const { request } of takers) library.setTensor(request, name, tensor)
    }
    const results: Record<string, Tensor> = {}
    try {
      for (const [name, feed] of Object.entries(feeds)) {
        const takers = links.filter(({ inputs }) => inputs.has(name))
        if (takers.length === 0) throw new AppError('internal', `session: nothing reads "${name}"`)
        bind(name, feed, takers)
      }
      for (const { link, name, shape } of answers) {
        if (shape === null) continue
        results[name] = { shape, data: new Float32Array(elementCount(shape)) }
        bind(name, results[name], [link])
      }
      isCancelled = false
      running = infer()
      if (await running) throw new AppError('cancelled', 'cancelled')
      for (const { link, name, shape } of answers)
        if (shape === null) results[name] = library.readTensor(link.request, name)
      return results
    } catch (error) {
      throw openvinoFault(error, 'a network failed to run')
    } finally {
      running = null
      current = null
    }
  }

  const cancel = (): boolean => {
    if (!open || !current) return true
    isCancelled = true
    library.cancel(current.request)
    return true
  }

  const close = async (): Promise<void> => {
    if (!open) return
    cancel()
    open = false
    // Its memory may be freed only when no thread works in it any more.
    if (running) await Promise.allSettled([running])
    owned.dispose()
  }
  return { run, cancel, close, [Symbol.asyncDispose]: close }
}

type Answer = ModelOutput & { readonly link: Link }

/** Outputs that a later graph reads become its inputs, in the same memory; the others are what the session answers. */
function connect(library: OpenvinoLibrary, links: readonly Link[]): readonly Answer[] {
  const answers: Answer[] = []
  links.forEach((link, index) => {
    for (const output of link.outputs) {
      const takers = links.slice(index + 1).filter(({ inputs }) => inputs.has(output.name))
      if (takers.length === 0) {
        answers.push({ ...output, link })
        continue
      }
      if (output.shape === null)
        throw new AppError('internal', `session: the size of "${output.name}" is not known before a run`)
      const tensor = library.tensorOf(link.request, output.name)
      try {
        for (const { request } of takers) library.setTensor(request, output.name, tensor)
      } finally {
        library.freeTensor(tensor)
      }
    }
  })
  return answers
}

/** An error of the library's as one of ours; `what` says what did not succeed. */
export function openvinoFault(error: unknown, what: string): unknown {
  if (!(error instanceof OpenvinoError)) return error
  const reason = reasonOf(error)
  const outOfMemory = /bad_alloc|out of memory|failed to allocate|cannot allocate/i.test(error.message)
  return new AppError(outOfMemory ? 'out_of_memory' : 'backend_failed', `${what}: ${reason}`, { cause: error })
}

/** What the library says, in one line: without the places in its sources, which stand on lines of their own. */
export function reasonOf({ message }: OpenvinoError): string {
  const lines = message.split('\n').map((line) => line.trim())
  const spoken = lines.filter((line) => line !== '' && !/^(Exception from|Check ').*:\d+:?$/.test(line))
  return (spoken.length > 0 ? spoken : lines).join(' ').replaceAll(/\s+/g, ' ').trim().slice(0, 300)
}
