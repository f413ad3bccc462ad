// The style presets a user can ask for, as data: a template round the prompt, and words for the negative prompt. They are
// short, because the user's own words share the tokens with them, and hold no brackets, so that a prompt's weights stay
// what they are.

/** Where the user's prompt goes. */
const placeholder = '{prompt}'

/** A style's template, which holds `{prompt}` once, and what goes before the negative prompt ("" for nothing). */
export type StylePreset = { readonly template: string; readonly negative: string }

/** Name → template and negative words. `base` leaves everything as it is. */
export const stylePresets = {
  base: {
    template: '{prompt}',
    negative: '',
  },
  '3d-model': {
    template: '{prompt} as a polished 3D render, smooth sculpted surfaces, studio lighting, ray-traced reflections',
    negative: 'flat drawing, photograph, sketch, grain',
  },
  'analog-film': {
    template: 'photo of {prompt} on 35mm colour film, soft grain, faded tones, light leak at the edge',
    negative: 'digital sharpness, illustration, 3D render, neon',
  },
  anime: {
    template: '{prompt}, anime key visual, cel shading, clean ink lines, bright flat colours, expressive eyes',
    negative: 'photo, realistic skin, 3D render, muddy colours',
  },
  cinematic: {
    template: 'film still of {prompt}, anamorphic widescreen framing, shallow focus, teal and amber grading',
    negative: 'cartoon, drawing, flat light, snapshot',
  },
  'comic-book': {
    template: 'comic book panel of {prompt}, bold ink outlines, halftone dots, dynamic pose, primary colours',
    negative: 'photo, soft gradients, realism, blur',
  },
  'Craft Clay': {
    template: '{prompt} shaped by hand from coloured clay, fingerprints visible, stop-motion set, tabletop light',
    negative: 'sharp metal, photo of real life, drawing, glossy plastic',
  },
  'modeling-compound': {
    template: '{prompt} made of soft play dough, rounded toy shapes, pastel lumps, matte surface, white table',
    negative: 'realistic detail, hard edges, drawing, dark scene',
  },
  'digital-art': {
    template: '{prompt}, finished digital painting, painterly brushwork, rim light, rich saturated palette',
    negative: 'photo, rough pencil sketch, grain, monochrome',
  },
  enhance: {
    template: '{prompt}, exceptionally detailed, crisp focus, balanced exposure, fine texture, high resolution',
    negative: 'blurry, noisy, low quality, compression artefacts, washed out',
  },
  'fantasy-art': {
    template: '{prompt} in an enchanted realm, epic fantasy illustration, glowing magic, ancient ruins, drifting mist',
    negative: 'modern city, cars, plain photo, office',
  },
  isometric: {
    template: 'isometric view of {prompt}, miniature diorama, clean geometry, parallel edges, soft pastel shading',
    negative: 'perspective distortion, close-up, photo, horizon',
  },
  'line-art': {
    template: '{prompt}, black ink line drawing on white paper, even contours, no shading, plenty of empty space',
    negative: 'colour, photo, gradients, 3D render, texture',
  },
  'low-poly': {
    template: '{prompt} built of large flat triangles, low-poly mesh, faceted shading, simple game scene',
    negative: 'smooth curves, fine detail, photo, noise',
  },
  'neon-punk': {
    template: '{prompt} glowing in magenta and cyan neon, wet night street, synthwave haze, chrome accents',
    negative: 'daylight, pastel, rustic, watercolour',
  },
  origami: {
    template: '{prompt} folded from a single sheet of paper, crisp creases, origami model, plain backdrop',
    negative: 'fabric, metal, photo of real life, painted texture',
  },
  photographic: {
    template: 'photograph of {prompt}, 50mm lens, natural light, true colours, lifelike detail',
    negative: 'painting, cartoon, drawing, 3D render, oversaturated',
  },
  'pixel-art': {
    template: '{prompt}, 16-bit pixel art sprite, visible square pixels, limited palette, dithering',
    negative: 'smooth gradients, photo, anti-aliasing, realism',
  },
  'tile-texture': {
    template: 'seamless repeating tile of {prompt}, even texture, flat lighting, edges that match',
    negative: 'single subject, horizon, vignette, perspective, border',
  },
  Advertising: {
    template: 'advertising shot of {prompt}, hero product on a spotless set, glossy light, aspirational mood',
    negative: 'clutter, amateur snapshot, dull colours, damage',
  },
  'Food Photography': {
    template: '{prompt} plated as a gourmet dish, appetising close-up, side window light, steam, linen and wood',
    negative: 'unappetising, plastic, people, harsh flash',
  },
  'Real Estate': {
    template: 'real estate listing photo of {prompt}, wide-angle view, bright airy rooms, straight verticals, tidy',
    negative: 'dark, cluttered, tilted, people, dirt',
  },
  Abstract: {
    template:
      'abstract composition suggested by {prompt}, overlapping shapes and bold fields of colour, no literal form',
    negative: 'realistic, photo, recognisable objects, fine detail',
  },
  Cubist: {
    template: 'cubist painting of {prompt}, broken into angular planes, several viewpoints at once, ochre and grey',
    negative: 'photo, smooth shading, single perspective, realism',
  },
  Graffiti: {
    template: '{prompt} sprayed as graffiti on a brick wall, dripping paint, thick outlined lettering, street grit',
    negative: 'clean studio, photo portrait, pencil, subtle tones',
  },
  Hyperrealism: {
    template: '{prompt} as a hyperrealist painting, every pore and reflection rendered, uncanny clarity',
    negative: 'loose brushwork, cartoon, blur, simplified shapes',
  },
  Impressionist: {
    template: 'impressionist oil painting of {prompt}, short broken strokes, dappled sunlight, open air',
    negative: 'sharp outlines, photo, black ink, flat colour',
  },
  Pointillism: {
    template: '{prompt} painted in thousands of pure colour dots, pointillist canvas, shimmering optical mix',
    negative: 'brush lines, outlines, photo, solid fills',
  },
  'Pop Art': {
    template: '{prompt} as a pop art screen print, repeated panels, clashing flat colours, sixties poster',
    negative: 'muted tones, realism, photo, soft shading',
  },
  Psychedelic: {
    template: 'psychedelic vision of {prompt}, swirling liquid patterns, kaleidoscope rainbow colours, melting shapes',
    negative: 'plain background, muted colours, realism, order',
  },
  Renaissance: {
    template: 'Renaissance oil portrait style, {prompt}, sfumato shading, classical drapery, candlelit chiaroscuro',
    negative: 'modern clothing, photo, neon, cartoon',
  },
  Steampunk: {
    template: 'steampunk version of {prompt}, brass gears, riveted copper, steam pipes, Victorian leather',
    negative: 'sleek plastic, minimal, neon signs, modern electronics',
  },
  Surrealist: {
    template: 'surrealist dream of {prompt}, impossible scale, floating objects, long desert shadows, quiet unease',
    negative: 'ordinary scene, logical, snapshot, cartoon',
  },
  Typography: {
    template: '{prompt} composed entirely of letterforms, expressive type design, poster layout, strong contrast',
    negative: 'photo, realistic scene, landscape, 3D scenery',
  },
  Watercolor: {
    template:
      'watercolour painting of {prompt}, wet bleeding washes, white paper showing through, delicate pigment edges',
    negative: 'photo, hard outlines, opaque paint, 3D render',
  },
  'Fighting Game': {
    template: '{prompt} as a fighting game character select art, martial stance, impact sparks, arena backdrop',
    negative: 'calm scene, landscape, photo, still life',
  },
  GTA: {
    template: '{prompt} as crime game cover art, thick contour portrait, sunset city, palm trees, poster cut-outs',
    negative: 'medieval, photo, watercolour, fantasy creatures',
  },
  'Super Mario': {
    template: '{prompt} in a cheerful mushroom platform game world, green pipes, question blocks, blue sky',
    negative: 'dark, realistic, gritty, horror',
  },
  Minecraft: {
    template: '{prompt} built from cubic voxel blocks, blocky grass and stone world, square sun',
    negative: 'round shapes, smooth surfaces, photo, fine detail',
  },
  Pokémon: {
    template:
      '{prompt} as a cute collectible monster, creature game artwork, big eyes, simple bright colours, elemental powers',
    negative: 'realistic human, photo, gore, dark scene',
  },
  'Retro Arcade': {
    template: '{prompt} on an eighties arcade screen, glowing vector shapes, scanlines, black background, high score',
    negative: 'modern graphics, photo, daylight, soft shading',
  },
  'Retro Game': {
    template: '{prompt} in an 8-bit home console game, chunky sprites, four-colour palette, side-scrolling level',
    negative: 'high resolution, photo, realism, 3D render',
  },
  'RPG Fantasy Game': {
    template: '{prompt} as role-playing game concept art, ornate armour, quest hero, detailed fantasy gear',
    negative: 'modern objects, photo, minimal, sport',
  },
  'Strategy Game': {
    template: '{prompt} in a strategy game map, view from above, small units and buildings, terrain and fog of war',
    negative: 'close-up, portrait, eye level, photo',
  },
  'Street Fighter': {
    template: '{prompt} in a nineties street brawl game, muscular fighters, energy burst, ink brush splashes',
    negative: 'soft pastel, landscape, photo, peaceful',
  },
  'Legend of Zelda': {
    template: '{prompt} in a green adventure kingdom, storybook cel shading, wind-blown meadows, mysterious temple',
    negative: 'city traffic, photo, cyberpunk, gore',
  },
  Architectural: {
    template:
      'architectural visualisation of {prompt}, clean facade, concrete and glass, precise daylight, human scale',
    negative: 'organic mess, cartoon, tilted, clutter',
  },
  Disco: {
    template: '{prompt} at a seventies disco, mirror ball sparkles, glitter, coloured spotlights, dance floor',
    negative: 'daylight, rustic, dull, grey',
  },
  Dreamscape: {
    template: 'soft dreamscape of {prompt}, weightless clouds, pearly light, hazy pink and violet distance',
    negative: 'harsh contrast, gritty, urban, sharp noise',
  },
  Dystopian: {
    template: '{prompt} in a bleak dystopia, decaying towers, smog, surveillance, ashen palette',
    negative: 'cheerful, lush nature, bright colours, clean',
  },
  'Fairy Tale': {
    template: 'fairy tale picture book page of {prompt}, gentle gouache, cosy forest, golden sparkle, once upon a time',
    negative: 'modern technology, horror, photo, grim',
  },
  Gothic: {
    template: 'gothic {prompt}, pointed arches, black lace, ravens, moonlit stone, solemn mood',
    negative: 'sunny, cheerful, beach, bright pastel',
  },
  Grunge: {
    template: 'grungy {prompt}, scratched photocopy texture, torn edges, dirty greens, nineties band poster',
    negative: 'clean, polished, pastel, symmetrical',
  },
  Horror: {
    template: 'horror scene of {prompt}, lurking shapes, sickly light, deep shadows, dread',
    negative: 'cheerful, cute, bright daylight, comedy',
  },
  Minimalist: {
    template: 'minimalist {prompt}, one simple form, two colours, large empty space, calm balance',
    negative: 'clutter, ornament, busy pattern, many objects',
  },
  Monochrome: {
    template: '{prompt} in black and white, full range of greys, strong tonal contrast, silver print',
    negative: 'colour, sepia, rainbow, neon',
  },
  Nautical: {
    template: '{prompt} by the sea, ropes and sails, navy and white, salt spray, weathered wood, lighthouse',
    negative: 'desert, mountains, city, neon',
  },
  Space: {
    template: '{prompt} in outer space, nebula clouds, distant planets, starlight, cosmic scale',
    negative: 'indoors, forest, daylight sky, rustic',
  },
  'Stained Glass': {
    template: '{prompt} as a stained glass window, jewel-coloured panes, black lead lines, light shining through',
    negative: 'photo, blur, soft gradients, 3D render',
  },
  'Techwear Fashion': {
    template: '{prompt} wearing techwear, black waterproof layers, straps and buckles, urban runway photograph',
    negative: 'vintage dress, bright florals, knitwear, medieval',
  },
  Tribal: {
    template: '{prompt} in tribal ornament, carved wood and earth pigments, bold geometric bands, ritual mask motifs',
    negative: 'futuristic, chrome, pastel, photo studio',
  },
  Zentangle: {
    template: '{prompt} filled with zentangle patterns, intricate repeated pen doodles, black on white',
    negative: 'colour, photo, blank areas, shading',
  },
  Collage: {
    template: 'collage of {prompt}, cut magazine photos, mismatched scale, glue and torn paper, layered snippets',
    negative: 'single smooth painting, 3D render, plain, seamless',
  },
  'Flat Papercut': {
    template: '{prompt} as flat papercut, one layer of coloured card shapes, clean scissor edges, no shadows',
    negative: 'depth, photo, gradients, texture, 3D render',
  },
  Kirigami: {
    template: 'kirigami of {prompt}, white sheet cut and popped up, symmetric slits, pop-up card',
    negative: 'colour painting, photo, glue, metal',
  },
  'Paper Mache': {
    template: '{prompt} in papier-mâché, newspaper strips and paste, lumpy hand-painted sculpture',
    negative: 'smooth plastic, photo of real life, flat drawing, chrome',
  },
  'Paper Quilling': {
    template: '{prompt} in quilled paper, rolled and coiled coloured strips standing on edge, filigree curls',
    negative: 'flat print, photo, brush strokes, solid fills',
  },
  'Papercut Collage': {
    template: '{prompt} pieced from patterned paper scraps, overlapping textures, handmade mixed-paper artwork',
    negative: 'smooth gradients, photo, plain surface, metal',
  },
  'Papercut Shadow Box': {
    template: '{prompt} inside a framed shadow box, backlit paper layers receding into a glowing tunnel',
    negative: 'flat light, photo, single layer, frontal flash',
  },
  'Stacked Papercut': {
    template: '{prompt} in stacked papercut, many thin contour layers like a topographic map, stepped edges',
    negative: 'flat, photo, painted, smooth slope',
  },
  'Thick Layered Papercut': {
    template: '{prompt} in thick foam-board papercut, deep chunky layers, strong cast shadows, bold relief',
    negative: 'thin lines, flat, photo, fine filigree',
  },
  Alien: {
    template: 'alien {prompt}, biomechanical anatomy, strange bioluminescent skin, extraterrestrial world',
    negative: 'ordinary human, familiar city, cosy, cartoon',
  },
  'Film Noir': {
    template:
      'film noir scene of {prompt}, forties detective movie, venetian blind shadows, cigarette smoke, black and white',
    negative: 'colour, cheerful, daylight, modern',
  },
  HDR: {
    template: 'HDR photograph of {prompt}, bracketed exposures, vivid sky, every shadow and highlight detailed',
    negative: 'flat, overexposed, underexposed, dull, painting',
  },
  'Long Exposure': {
    template: 'long exposure of {prompt}, silky motion blur, light trails, still tripod, dusk',
    negative: 'frozen motion, illustration, flash, noon',
  },
  'Neon Noir': {
    template: 'neon noir, {prompt} in rain-soaked shadow, a single coloured sign, reflections, brooding thriller',
    negative: 'bright day, pastel, cheerful, cartoon',
  },
  Silhouette: {
    template: 'silhouette of {prompt}, solid black shape against a glowing sunset, strong outline',
    negative: 'front light, surface detail, clutter, many colours',
  },
  'Tilt-Shift': {
    template: 'tilt-shift photo of {prompt}, toy-town miniature, thin band of focus, seen from above, vivid colours',
    negative: 'deep focus, eye level, close portrait, dark',
  },
} as const satisfies Record<string, StylePreset>

/** A name of the table. */
export type StylePresetName = keyof typeof stylePresets

/** All names, in the table's order. */
export const stylePresetNames = Object.keys(stylePresets) as readonly StylePresetName[]

/** The four texts of a picture; null as in an order: prompt 2 copies prompt, no negative prompt, negative 2 copies it. */
export type StyledTexts = {
  readonly prompt: string
  readonly prompt2: string | null
  readonly negativePrompt: string | null
  readonly negativePrompt2: string | null
}

/**
 * The texts in a style. What the second encoder copies it copies with the style; a text of its own is left as it is. The
 * negative words come before the negative prompt and stand alone where there is none.
 */
export function applyStyle(name: StylePresetName, texts: StyledTexts): StyledTexts {
  const { template, negative }: StylePreset = stylePresets[name]
  const at = template.indexOf(placeholder)
  const styled = template.slice(0, at) + texts.prompt + template.slice(at + placeholder.length)
  const own = texts.negativePrompt
  const styledNegative = negative === '' ? own : own === null || own === '' ? negative : `${negative}, ${own}`
  return { ...texts, prompt: styled, negativePrompt: styledNegative }
}
