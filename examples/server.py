"""A page in the browser that scores a picture and shows where it is odd.

pip install ganomaly_nb[server]
python server.py model.onnx          # then open http://127.0.0.1:8000

An example, no product: no users, no encryption, and it listens to this machine only.
"""
import base64, io, sys
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from PIL import Image
from score_onnx import score

max_bytes = 10_000_000   # of a file
max_pixels = 50_000_000  # of a picture: a small file can hold a huge one


page = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Score a picture</title>
<link rel="icon" href="data:,">
<style>
body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
img { width: 45%; image-rendering: pixelated; border: 1px solid #767676 }
.abnormal { color: #a00000; font-weight: bold }
</style>
<h1>Score a picture</h1>
<p><label for="file">Picture:</label> <input type="file" id="file" accept="image/*"></p>
<p id="verdict" role="status"></p>
<p id="pictures"></p>
<script>
const verdict = document.getElementById('verdict'), pictures = document.getElementById('pictures')

function show(src, alt) {
    const img = document.createElement('img')
    Object.assign(img, {src, alt})
    pictures.append(img, ' ')
}

async function send(file) {
    pictures.replaceChildren()
    verdict.className = ''
    verdict.textContent = 'Scoring ...'
    try {
        const response = await fetch('/score', {method: 'POST', body: file})
        const found = await response.json()
        if (!response.ok) throw new Error(found.detail)
        verdict.textContent = `${file.name}: ${found.text}`
        verdict.className = found.is_abnormal ? 'abnormal' : ''
        show(URL.createObjectURL(file), 'The picture')
        show(found.map, `Map of the differences; white is ${found.largest}`)
    } catch (e) {
        verdict.textContent = `${file.name}: ${e.message}`
    }
}

document.getElementById('file').onchange = e => e.target.files.length && send(e.target.files[0])
</script>
</html>"""


async def read_body(request):
    "What was sent, as long as it is no more than `max_bytes`"
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data)>max_bytes:
            raise HTTPException(413, f'the file is larger than {max_bytes/1e6:g} MB')
    if not data: raise HTTPException(400, 'the file is empty')
    return bytes(data)


def check_picture(data):
    "Refuse what is no picture, or a huge one, before its pixels are decoded"
    try: width,height = Image.open(io.BytesIO(data)).size
    except Exception: raise HTTPException(400, 'this is no picture that can be read') from None
    if width*height>max_pixels:
        raise HTTPException(413, f'{width} x {height} pixels are more than {max_pixels/1e6:g} million')


def as_png(heat):
    "A map as the address of a grey picture, its largest value white"
    grey = np.uint8(255*heat/max(heat.max(), 1e-6))
    file = io.BytesIO()
    Image.fromarray(grey).save(file, 'png')
    return 'data:image/png;base64,'+base64.b64encode(file.getvalue()).decode()


def judge(data, session):
    "The answer for one picture, for JSON"
    check_picture(data)
    try: found = score(io.BytesIO(data), session)
    except Exception as e: raise HTTPException(400, f'this picture cannot be scored: {e}') from None
    text = f'score {found["score"]:.4g}'
    is_abnormal = bool(found.get('is_abnormal', False))
    if 'p_value' in found:
        text += f', p-value {found["p_value"]:.3g}: {"abnormal" if is_abnormal else "normal"}'
    return dict(text=text, score=float(found['score']), is_abnormal=is_abnormal,
                map=as_png(found['map']), largest=f'{found["map"].max():.2f}')


def make_app(model):
    "The server of a model that `learn.export_onnx` wrote"
    app,session = FastAPI(),onnxruntime.InferenceSession(model)

    @app.get('/', response_class=HTMLResponse)
    def home(): return page

    @app.post('/score')
    async def upload(request: Request):
        return await run_in_threadpool(judge, await read_body(request), session)

    return app


if __name__=='__main__': uvicorn.run(make_app(sys.argv[1]), host='127.0.0.1', port=8000)
