import type { Backend } from '#engine/backend.ts'
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
  return {
    ...backend,
    interrupt() {
      isInterrupted = true
      cancelRun?.()
    },
    resume() {
      isInterrupted = false
    },
    async create(model, options) {
      check()
      const session = await backend.create(model, options)
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
    },
  }
}
