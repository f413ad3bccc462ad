// Files of one's own on the command line of `sepia generate`: how they are named, found and told to the engine.
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shippedAssets } from '../../src/cli/asset-places.ts'
import { nameAssets, readAssets, type AssetReader } from '../../src/cli/asset-references.ts'
import { resolveConfig } from '../../src/config.ts'
import { makePlace, refusal, removePlace, type Place } from '../support/sepia-command.ts'

let place: Place
let file: string
let other: string
/** Eight bytes of length, an empty header: enough to be told from other formats. */
const contents = Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')])
const config = () => resolveConfig({ SEPIA_DATA: path.join(place.folder, 'data') })

beforeAll(() => {
  place = makePlace()
  file = path.join(place.folder, 'a:b=c.safetensors')
  other = path.join(place.folder, 'other.safetensors')
  writeFileSync(file, contents)
  writeFileSync(other, `${contents.toString('latin1')} `)
  mkdirSync(path.join(place.folder, 'data/models/wide'), { recursive: true })
  writeFileSync(path.join(place.folder, 'data/models/soft.safetensors'), contents)
})
afterAll(() => removePlace(place))

/** An engine that says of what it looked into. */
const engine = (asked: unknown[] = []): AssetReader => ({
  scratchDir: place.folder,
  inspectAsset: (asset) => {
    asked.push(asset)
    writeFileSync(asset.output, contents)
    return Promise.resolve({ converted: true } as never)
  },
})

describe('references', () => {
  it('are files with a weight behind the last colon and a word behind the last equals sign', async () => {
    const options = { lora: [`${file}:-0.75`, other], ti: [`${file}= Old Photo `], vae: other }
    expect(await nameAssets(options, config())).toEqual({
      loras: [
        { file, scale: -0.75 },
        { file: other, scale: 1 },
      ],
      textualInversions: [{ file, trigger: 'Old Photo' }],
      vae: other,
    })
  })

  it('are names of pulled models and of shipped examples', async () => {
    const named = await nameAssets({ lora: ['octoai:pocket-blueprint:0.5', 'pocket-blueprint'], vae: 'soft' }, config())
    const shipped = path.join(shippedAssets, 'lora/pocket-blueprint.safetensors')
    expect(named.loras).toEqual([
      { file: shipped, scale: 0.5 },
      { file: shipped, scale: 1 },
    ])
    expect(named.vae).toBe(path.join(place.folder, 'data/models/soft.safetensors'))
  })

  it('become hashes, and other formats than safetensors are converted first', async () => {
    const pickled = path.join(place.folder, 'old.pt')
    writeFileSync(pickled, 'PK\u0003\u0004 an archive')
    const named = await nameAssets({ lora: [`${other}:2`], ti: [`${pickled}=word`] }, config())
    const asked: unknown[] = []
    const task = await readAssets(named, engine(asked), '/models/base')
    const output = path.join(place.folder, 'converted-1.safetensors')
    expect(asked).toEqual([{ path: pickled, output, kind: 'textual_inversion', checkpoint: '/models/base' }])
    const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
    const [lora, inversion] = [hash(Buffer.concat([contents, Buffer.from(' ')])), hash(contents)]
    expect(task).toEqual({
      loras: [{ asset: lora, scale: 2 }],
      textualInversions: [{ asset: inversion, trigger: 'word' }],
      vae: null,
      assets: { [lora]: other, [inversion]: output },
    })
  })

  it('do not name a LoRA twice', async () => {
    const named = await nameAssets({ lora: [`${file}:1`, `${file}:0.5`] }, config())
    await expect(readAssets(named, engine(), '')).rejects.toMatchObject({
      code: 'bad_argument',
      message: `--lora must name a file once, got ${file} again`,
    })
  })
})

describe('a command with a wrong reference', () => {
  it.each([
    [['--lora', 'nothing.safetensors'], 1, '--lora: there is no file "nothing.safetensors", and no asset of that name'],
    [['--lora', 'octoai:nothing:0.5'], 1, '--lora: there is no file "octoai:nothing", and no asset of that name'],
    [['--lora', 'x:101'], 2, '--lora: the weight must be a number from -100 to 100, got "101"'],
    [['--ti', 'x'], 2, '--ti must be FILE=WORD or NAME=WORD, got "x"'],
    [['--ti', '=word'], 2, '--ti must be FILE=WORD or NAME=WORD, got "=word"'],
    [['--ti', 'x= '], 2, '--ti must be FILE=WORD or NAME=WORD, got "x= "'],
    [['--ti', 'x=cat', '--ti', 'y=Cat'], 2, '--ti must give each inversion a word of its own, got "Cat" twice'],
    [['--vae', ''], 1, '--vae: there is no file "", and no asset of that name'],
    [['--model', 'nothing'], 1, expect.stringMatching(/^--model: there is no file or folder .*nothing$/)],
    [['--data', '', '--vae', 'x'], 2, '--data must be a folder, got ""'],
  ] as const)('%j', async (options, code, message) => {
    expect(await refusal(place, ['generate', 'a cat', ...options])).toEqual({ code, message })
  })

  it('tells a folder from a file', async () => {
    const { code, message } = await refusal(place, ['generate', 'a cat', '--lora', `${place.folder}:0.5`])
    expect({ code, message }).toEqual({ code: 2, message: `--lora must name a file, got the folder ${place.folder}` })
  })
})
