"""Makes sets of kanji in many typefaces: the built-in one, and `glyphs-large`, of a real data set's size.

Needs NumPy, Pillow and fontTools (`pip install 'fastdml[glyphs]'`), and dpkg-deb with either apt-get or a
folder of Debian font packages. `fastdml.data.glyphs` reads what is made, and needs none of them.
"""
