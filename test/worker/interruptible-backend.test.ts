// What an interrupted task's backend does: nothing any more, until it resumes.
import { expect, it } from 'vitest'
import type { Backend, Session } from '#engine/backend.ts'
import { interruptible } from '#worker/interruptible-backend.ts'

const options = { weightsInPlace: true, keepActivations: true, arithmetic: 'graph' } as const

/** A backend whose sessions run until they are cancelled, and how many of them are open. */
function endless(): { readonly backend: Backend; readonly open: () => number } {
  let open = 0
  const create = async (): Promise<Session> => {
    open++
    const stopped = Promise.withResolvers<never>()
    const close = async (): Promise<void> => void open--
    const cancel = (): boolean => {
      stopped.reject(new Error('stopped'))
      return true
    }
    return { run: () => stopped.promise, cancel, close, [Symbol.asyncDispose]: close }
  }
  return { backend: { name: 'openvino', device: 'cpu', create, createChain: create }, open: () => open }
}

it.each(['create', 'createChain'] as const)('%s: a run ends, and nothing begins before it resumes', async (name) => {
  const { backend, open } = endless()
  const guarded = interruptible(backend)
  const create = (): Promise<Session> =>
    name === 'create' ? guarded.create(new Uint8Array(), options) : guarded.createChain!([], options)
  const session = await create()
  const run = session.run({})
  guarded.interrupt()
  await expect(run).rejects.toThrow('stopped')
  await expect(session.run({})).rejects.toMatchObject({ code: 'cancelled' })
  await expect(create()).rejects.toMatchObject({ code: 'cancelled' })
  expect(open()).toBe(1)
  guarded.resume()
  const late = create()
  guarded.interrupt()
  await expect(late).rejects.toMatchObject({ code: 'cancelled' })
  expect(open()).toBe(1)
})

it('takes several graphs as one session only where its backend does', () => {
  const { backend } = endless()
  const { createChain: _, ...single } = backend
  expect(interruptible(backend).createChain).toBeTypeOf('function')
  expect(interruptible(single).createChain).toBeUndefined()
})
