// The samplers a user can ask for, as data: each name picks an algorithm and its options. Everything not said here comes
// from the model's own scheduler configuration.
import { AppError } from '../errors.ts'

/** Which algorithm runs, with the options that make it this sampler. */
export type SamplerSettings =
  | { readonly algorithm: 'ddim' }
  | { readonly algorithm: 'euler' }
  | { readonly algorithm: 'eulerAncestral' }
  | { readonly algorithm: 'dpmSolverMultistep'; readonly karrasSigmas: boolean }

/** Name → settings and the largest number of steps that makes sense; the smallest is 1. */
export const samplers = {
  DDIM: { algorithm: 'ddim', maxSteps: 200 },
  K_EULER: { algorithm: 'euler', maxSteps: 200 },
  K_EULER_ANCESTRAL: { algorithm: 'eulerAncestral', maxSteps: 200 },
  DPM_SOLVER_MULTISTEP: { algorithm: 'dpmSolverMultistep', karrasSigmas: false, maxSteps: 200 },
  DPM_PLUS_PLUS_2M_KARRAS: { algorithm: 'dpmSolverMultistep', karrasSigmas: true, maxSteps: 200 },
} as const satisfies Record<string, SamplerSettings & { readonly maxSteps: number }>

/** A name of the table. */
export type SamplerName = keyof typeof samplers

/** All names, in the table's order. */
export const samplerNames = Object.keys(samplers) as readonly SamplerName[]

/** Throws bad_argument unless `steps` is a whole number that `sampler` takes. */
export function requireSteps(sampler: SamplerName, steps: number): void {
  const { maxSteps } = samplers[sampler]
  if (!Number.isInteger(steps) || steps < 1 || steps > maxSteps)
    throw new AppError('bad_argument', `steps: ${steps} is not a whole number in 1..${maxSteps} (sampler ${sampler})`)
}
