"A headless Chromium, and what to look for in a page: console errors, blank pictures, sideways scrolling"
import contextlib, functools, io, shutil, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

FLAGS = '''--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
    --disable-dev-shm-usage --hide-scrollbars --use-angle=swiftshader --enable-unsafe-swiftshader'''.split()

def chromium(profile):
    "A driver of Chromium with the empty folder `profile`, or a text that says what is missing"
    try: from selenium import webdriver
    except ImportError: return 'selenium is not installed: pip install selenium'
    exe,driver = shutil.which('chromium') or shutil.which('google-chrome'),shutil.which('chromedriver')
    if not (exe and driver):
        return 'no chromium or no chromedriver: on Debian, apt-get install chromium chromium-driver'
    opts = webdriver.ChromeOptions()
    opts.binary_location = exe
    for o in (*FLAGS, f'--user-data-dir={profile}'): opts.add_argument(o)
    opts.set_capability('goog:loggingPrefs', dict(browser='ALL'))
    return webdriver.Chrome(options=opts, service=webdriver.ChromeService(driver))

def console_errors(browser):
    "What the console has complained about since the last call"
    return [o['message'] for o in browser.get_log('browser') if o['level']=='SEVERE']

def set_width(browser, width, height=900):
    "Give the page a viewport of `width` x `height` CSS pixels, narrower than a window can be"
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=height, deviceScaleFactor=1,
        mobile=False))

def too_wide(browser):
    "By how many pixels the page has to be scrolled sideways"
    return browser.execute_script('const d = document.scrollingElement; return d.scrollWidth-d.clientWidth')

def contrast(element):
    "Standard deviation of the pixels of `element` as drawn, 0 where it is blank"
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert('L')).std()

class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@contextlib.contextmanager
def serve(folder):
    "The address at which `folder` is served while the block runs"
    srv = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{srv.server_port}'
    finally:
        srv.shutdown()
        srv.server_close()
