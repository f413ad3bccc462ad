// The samplers a user can ask for, as data: each name picks an algorithm and its options. Everything not said here comes
// from the model's own scheduler configuration.
import { AppError } from '../errors.ts'

/** Which algorithm runs, with the options that make it this sampler; where karrasSigmas is missing, the model decides. */
export type SamplerSettings =
  | { readonly algorithm: 'ddim' | 'ddpm' | 'pndm' | 'lcm' | 'euler' | 'eulerAncestral' }
  | {
      readonly algorithm: 'lms' | 'heun' | 'dpmSolverSinglestep' | 'uniPc' | 'dpmSolverSde'
      readonly karrasSigmas?: true
    }
  | { readonly algorithm: 'kdpm2'; readonly ancestral: boolean; readonly karrasSigmas?: true }
  | { readonly algorithm: 'dpmSolverMultistep'; readonly sde: boolean; readonly karrasSigmas?: true }

/** What is known of a sampler beside its algorithm. */
export type SamplerTraits = {
  /** The class of diffusers that computes the same. */
  readonly diffusers: string
  /** Evaluations of the network a step. */
  readonly order: 1 | 2
  /** Whether it draws noise after the first latents. */
  readonly stochastic: boolean
  /** Whether a picture costs twice the price. */
  readonly premium: boolean
  /** The largest number of steps; the smallest is 1. */
  readonly maxSteps: number
}

const plain = { order: 1, stochastic: false, premium: false, maxSteps: 200 } as const
const noisy = { ...plain, stochastic: true } as const
const ddim = { ...plain, algorithm: 'ddim', diffusers: 'DDIMScheduler' } as const
const ddpm = { ...noisy, algorithm: 'ddpm', diffusers: 'DDPMScheduler' } as const
const pndm = { ...plain, algorithm: 'pndm', diffusers: 'PNDMScheduler' } as const
const lcm = { ...noisy, algorithm: 'lcm', diffusers: 'LCMScheduler', maxSteps: 50 } as const
const euler = { ...plain, algorithm: 'euler', diffusers: 'EulerDiscreteScheduler' } as const
const eulerAncestral = {
  ...noisy,
  algorithm: 'eulerAncestral',
  diffusers: 'EulerAncestralDiscreteScheduler',
} as const
const lms = { ...plain, algorithm: 'lms', diffusers: 'LMSDiscreteScheduler' } as const
const heun = { ...plain, algorithm: 'heun', diffusers: 'HeunDiscreteScheduler', order: 2 } as const
const kdpm2 = { ...plain, algorithm: 'kdpm2', ancestral: false, diffusers: 'KDPM2DiscreteScheduler', order: 2 } as const
const kdpm2Ancestral = {
  ...noisy,
  algorithm: 'kdpm2',
  ancestral: true,
  diffusers: 'KDPM2AncestralDiscreteScheduler',
  order: 2,
} as const
const multistep = {
  ...plain,
  algorithm: 'dpmSolverMultistep',
  sde: false,
  diffusers: 'DPMSolverMultistepScheduler',
} as const
const multistepSde = { ...multistep, sde: true, stochastic: true } as const
const singlestep = { ...plain, algorithm: 'dpmSolverSinglestep', diffusers: 'DPMSolverSinglestepScheduler' } as const
const uniPc = { ...plain, algorithm: 'uniPc', diffusers: 'UniPCMultistepScheduler' } as const
const dpmSolverSde = { ...noisy, algorithm: 'dpmSolverSde', diffusers: 'DPMSolverSDEScheduler', order: 2 } as const
const karras = { karrasSigmas: true } as const
const premium = { premium: true } as const

/** Every sampler by its name. */
export const samplers = {
  DDIM: ddim,
  DDPM: ddpm,
  PNDM: pndm,
  K_EULER: euler,
  K_EULER_ANCESTRAL: eulerAncestral,
  DPM_SOLVER_MULTISTEP: multistep,
  DPM_PLUS_PLUS_2M_KARRAS: { ...multistep, ...karras },
  DPM_PLUS_PLUS_2M_SDE: multistepSde,
  DPM_PLUS_PLUS_2M_SDE_KARRAS: { ...multistepSde, ...karras },
  DPM_SINGLE: singlestep,
  UNI_PC: uniPc,
  LCM: lcm,
  LMS: lms,
  K_HEUN: heun,
  DPM_2_KARRAS: { ...kdpm2, ...karras },
  DPM_2_ANCESTRAL_KARRAS: { ...kdpm2Ancestral, ...karras },
  KLMS: { ...lms, ...premium },
  HEUN: { ...heun, ...premium },
  DPM_2: { ...kdpm2, ...premium },
  DPM_2_ANCESTRAL: { ...kdpm2Ancestral, ...premium },
  DPM_PLUS_PLUS_SDE_KARRAS: { ...dpmSolverSde, ...karras, ...premium },
} as const satisfies Record<string, SamplerSettings & SamplerTraits>

/** A name of the table. */
export type SamplerName = keyof typeof samplers

/** All names, in the table's order. */
export const samplerNames = Object.keys(samplers) as readonly SamplerName[]

/** Older spellings, which only the legacy interface takes. */
export const samplerAliases: Readonly<Record<string, SamplerName>> = {
  DPMSolverMultistep: 'DPM_SOLVER_MULTISTEP',
  K_DPMPP_2M: 'DPM_PLUS_PLUS_2M_KARRAS',
  'DPM++2MKarras': 'DPM_PLUS_PLUS_2M_KARRAS',
  DPMSingle: 'DPM_SINGLE',
  DPM2_ANCESTRAL: 'DPM_2_ANCESTRAL',
  'DPM++ SDE Karras': 'DPM_PLUS_PLUS_SDE_KARRAS',
}

/** Throws bad_argument unless `steps` is a whole number that `sampler` takes. */
export function requireSteps(sampler: SamplerName, steps: number): void {
  const { maxSteps } = samplers[sampler]
  if (!Number.isInteger(steps) || steps < 1 || steps > maxSteps)
    throw new AppError('bad_argument', `steps: ${steps} is not a whole number in 1..${maxSteps} (sampler ${sampler})`)
}
