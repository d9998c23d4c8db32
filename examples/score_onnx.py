"""Score pictures with an exported model, without torch: numpy, Pillow and onnxruntime are enough.

python score_onnx.py model.onnx picture.png another.jpg
"""
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps


def bring_to(img, width, height, fit):
    "A picture of a size: squashed, padded with black, or the middle of it"
    factors = width/img.width,height/img.height
    if fit=='squash': return img.resize((width,height), Image.Resampling.BILINEAR)
    factor = min(factors) if fit=='pad' else max(factors)
    w,h = [max(1, round(factor*o)) for o in img.size]
    left,top = int((w-width)/2),int((h-height)/2) # below 0: what is outside becomes black
    img = img.resize((w,h), Image.Resampling.BILINEAR)
    return img.crop((left, top, left+width, top+height))


def as_pixels(file, channels, height, width, fit='squash'):
    "A picture as uint8 (channels, height, width)"
    img = ImageOps.exif_transpose(Image.open(file))
    if img.mode[0] in 'IF': raise ValueError(f'8 bits a pixel expected, found mode {img.mode}')
    if img.has_transparency_data: # is put on white
        img = Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img.convert('RGBA'))
    img = img.convert('RGB')
    if channels==1: img = img.convert('L')
    img = bring_to(img, width, height, fit)
    return np.asarray(img).reshape(height, width, channels).transpose(2,0,1)


def score(file, session):
    "score, p_value, is_abnormal and map of one picture, by name"
    about = json.loads(session.get_modelmeta().custom_metadata_map['ganomaly_nb'])
    pixels = as_pixels(file, *[about[k] for k in ('channels','height','width','fit')])
    values = session.run(None, {'images':pixels[None]})
    return {o.name:v[0] for o,v in zip(session.get_outputs(), values)}


if __name__=='__main__':
    model,*files = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    for file in files:
        found = score(file, session)
        print(file, *[f'{k}={v:.6g}' for k,v in found.items() if k!='map'])
