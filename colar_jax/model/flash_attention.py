def choose_attention(a,b,c): return "xla"
