import type { Backend, Session } from '#engine/backend.ts'
import { AppError } from '../errors.ts'

/** A backend whose running inference can be stopped; what is asked of it afterwards is refused until it resumes. */
export type InterruptibleBackend = Backend & {
  /** Whatever runs, and whatever is asked for next, rejects with `cancelled`. */
  interrupt(): void
  resume(): void
}

/** Sessions of `backend`, which must know how to cancel, behind one switch for all of them. */
export function interruptible(backend: Backend): InterruptibleBackend {
  let isInterrupted = false
  let cancelRun: (() => boolean) | null = null
  const check = (): void => {
    if (isInterrupted) throw new AppError('cancelled', 'cancelled')
  }
  const { createChain } = backend
  const guarded = async (create: () => Promise<Session>): Promise<Session> => {
    check()
    const session = await create()
    if (isInterrupted) await session.close()
    check()
    return {
      ...session,
      async run(feeds) {
        check()
        cancelRun = () => session.cancel()
        try {
          return await session.run(feeds)
        } finally {
          cancelRun = null
        }
      },
    }
  }
  return {
    ...backend,
    interrupt() {
      isInterrupted = true
      cancelRun?.()
    },
    resume() {
      isInterrupted = false
    },
    create: (model, options) => guarded(() => backend.create(model, options)),
    ...(createChain && { createChain: (models, options) => guarded(() => createChain(models, options)) }),
  }
}
