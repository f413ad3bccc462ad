import type { Claim } from './job-transitions.ts'

/** A free engine process that is kept for a job while the job is accepted. One that was not started is to be released. */
export type Reservation = {
  /**
   * Run the job while its acceptance is still being written. Nothing comes of the run before `accepted` resolves, which
   * says whether `claim` stands in the database now; where it does not, nothing of the run is left.
   */
  start(claim: Claim, accepted: Promise<boolean>): void
  /** Give the process to whoever waits; resolves when a run that was not accepted is over. */
  release(): Promise<void>
}

/** A reservation for a job of `queue`; null where no process of this server is free. */
export type Reserve = (queue: string) => Reservation | null
