"""What a trained model answers: to a held-out set, at any resolution, or to one question.

run, checkpoint, model folder or published folder ── opened ──► a model with its weights
held-out packs ── held_out ──► single samples, at the resolution of the set or another
    evaluation   loss and right answers by source and kind
    resolution   the same for every pair of bounds on the pixels, and the best of them
a picture and a text ── asking ──► a prompt ── generation ──► what the model says
"""
