// Every option of the real command with values that it must refuse.
import { availableParallelism } from 'node:os'
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { samplerNames } from '#diffusion/samplers.ts'
import { jsonRefusal, makePlace, refusal, removePlace, type Place } from '../support/sepia-command.ts'

let place: Place
beforeAll(() => {
  place = makePlace()
})
afterAll(() => removePlace(place))

const whole = (min: number, max: number): string => `a whole number from ${min} to ${max}`
const cores = availableParallelism()

/** Option → what it takes, and some of the values that it must refuse; the others are in option-values.test.ts. */
const table: Readonly<Record<string, readonly [string, readonly string[]]>> = {
  '--steps': [whole(1, 200), ['0', '201', '1.5', 'abc']],
  '--cfg': ['a number above 0 and up to 50', ['0', '-1', '51', 'NaN']],
  '--num': [whole(1, 16), ['0', '17']],
  '--seed': [whole(0, 4294967295), ['-1', '4294967296', '1.5']],
  '--clip-skip': [whole(1, 12), ['0', '13']],
  '--width': [whole(8, 4096), ['0', '4097', '512px']],
  '--height': [whole(8, 4096), ['0', '99999']],
  '--threads': [whole(1, cores), ['0', '-1', `${cores + 1}`]],
  '--sampler': [`one of ${samplerNames.join(', ')}`, ['Euler a']],
  '--backend': ['one of auto, onnxruntime, openvino', ['tensorrt']],
  '--precision': ['one of auto, fp32, fp16, bf16, int8', ['fp8']],
  '--device': ['one of cpu, cuda, webgpu, gpu, npu', ['tpu']],
  '--cache-limit': ['a size such as 40GB or 512MiB, from 1MB to 1000TB', ['lots', '0GB']],
  '--cache': ['a folder', ['']],
}

describe('a value out of range', () => {
  const cases = Object.entries(table).flatMap(([option, [allowed, values]]) =>
    values.map((value) => ({ option, allowed, value })),
  )
  it.each(cases)('$option "$value"', async ({ option, allowed, value }) => {
    expect(await refusal(place, ['generate', 'a red apple', option, value])).toEqual({
      code: 2,
      message: `${option} must be ${allowed}, got "${value}"`,
    })
  })

  it('is an error object with --json', async () => {
    expect(await jsonRefusal(place, ['generate', 'a red apple', '--steps', '0'])).toEqual({
      code: 'bad_argument',
      message: '--steps must be a whole number from 1 to 200, got "0"',
    })
  })
})

describe('a command line that cannot be understood', () => {
  it.each<[string[], string]>([
    [['generate'], "missing required argument 'prompt'"],
    [['generate', 'two', 'words'], "too many arguments for 'generate'. Expected 1 argument but got 2: two, words."],
    [['generate', 'x', '--stesp', '3'], "unknown option '--stesp' (Did you mean --steps?)"],
    [['generate', 'x', '--seed'], "option '-s, --seed <numbers>' argument missing"],
    [['inspect'], "missing required argument 'path'"],
    [['paint', 'x'], "unknown command 'paint'"],
    [['generate', 'x', '-o', 'a.gif'], '--output must end in .png, .jpg or .jpeg or be a folder, got "a.gif"'],
    [['generate', 'x', '-o', ''], '--output must be a file or a folder, got ""'],
  ])('%j', async (argv, message) => {
    const refused = await refusal(place, argv)
    expect(refused.code).toBe(2)
    expect(refused.message).toContain(message)
  })
})

describe('a prompt', () => {
  const long = 'x'.repeat(10_001)
  it.each<[string[], string]>([
    [['generate', long], 'PROMPT'],
    [['generate', 'x', '--prompt-2', long], '--prompt-2'],
    [['generate', 'x', '--negative', long], '--negative'],
    [['generate', 'x', '--negative-2', long], '--negative-2'],
  ])('of more than 10,000 characters: %#', async (argv, name) => {
    const message = `${name} must have at most 10000 characters, got 10001`
    expect(await refusal(place, argv)).toEqual({ code: 2, message })
    expect(await jsonRefusal(place, argv)).toEqual({ code: 'bad_prompt', message })
  })
})

it('all of these are told before anything is begun', () => expect(existsSync(place.cache)).toBe(false))
