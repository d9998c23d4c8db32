"""Score pictures with an exported model, without torch: numpy, Pillow and onnxruntime are enough.

python score_onnx.py model.onnx picture.png another.jpg
"""
import sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps


def as_pixels(file, shape):
    "A picture in the shape (channels, height, width) of the model, as uint8"
    channels,height,width = shape
    img = ImageOps.exif_transpose(Image.open(file))
    if img.mode[0] in 'IF': raise ValueError(f'8 bits a pixel expected, found mode {img.mode}')
    if img.has_transparency_data: # is put on white
        img = Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img.convert('RGBA'))
    img = img.convert('RGB')
    if channels==1: img = img.convert('L')
    img = img.resize((width,height), Image.Resampling.BILINEAR)
    return np.asarray(img).reshape(height, width, channels).transpose(2,0,1)


def score(file, session):
    "score, p_value, is_abnormal and map of one picture, by name"
    images = as_pixels(file, session.get_inputs()[0].shape[1:])[None]
    values = session.run(None, {'images':images})
    return {o.name:v[0] for o,v in zip(session.get_outputs(), values)}


if __name__=='__main__':
    model,*files = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    for file in files:
        found = score(file, session)
        print(file, *[f'{k}={v:.6g}' for k,v in found.items() if k!='map'])
