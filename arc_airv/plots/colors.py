"""Colours: the palettes of grids, and those of marks and text. Draws nothing."""

PALETTES = {
    # Of the ARC testing interface.
    "arc": "#000000 #0074D9 #FF4136 #2ECC40 #FFDC00 #AAAAAA #F012BE #FF851B #7FDBFF #870C25",
    # The eight of Okabe and Ito, a grey and a brown: apart also to colour-blind eyes.
    "safe": "#000000 #0072B2 #D55E00 #009E73 #F0E442 #AAAAAA #CC79A7 #E69F00 #8AD0F5 #5C2D1A",
}
PALETTE = PALETTES["arc"].split()
RIGHT, WRONG, UNKNOWN = "#1A9850", "#D7301F", "#8C8C8C"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#D3D3D3"
