import type { Claim } from './job-transitions.ts'

/** A free engine process that is kept for a job while the job is accepted. Exactly one of the two is to be called. */
export type Reservation = {
  /** Run the job. */
  start(claim: Claim): void
  /** Give the process to whoever waits. */
  release(): Promise<void>
}

/** A reservation for a job of `queue`; null where no process of this server is free. */
export type Reserve = (queue: string) => Reservation | null
